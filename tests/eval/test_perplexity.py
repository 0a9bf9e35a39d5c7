# SPDX-License-Identifier: Apache-2.0
"""Bits per byte over documents equals one whole pass over each, however chunked and batched."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from eval.perplexity import Score, perplexity, score_documents
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.walk import ChunkProgram, TokenChunk
from recurrentgemma.griffin import Griffin
from recurrentgemma.presets import tiny
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.recurrentgemma.models import call
from training.data.document import Document

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXTS = ["", "O", "Über", "But, soft! what light through yonder window breaks? " * 2]
TEXT_BYTES = sum(len(text.encode()) for text in TEXTS)


@pytest.fixture(scope="module")
def lm():
    config = dataclasses.replace(
        tiny(),
        vocab_size=261,
        width=32,
        mlp_width=48,
        num_layers=3,
        lru_width=32,
        head_dim=8,
        attention_window=16,
    )
    return LanguageModel(Griffin(config, rngs=nnx.Rngs(0)), ByteTokenizer())


def documents_of(lm) -> list[Document]:
    return [Document(np.array(lm.tokenizer.encode(text), np.int32)) for text in TEXTS]


def one_pass(model: Griffin, document: Document) -> np.ndarray:
    """The log-probability of each target, in float64."""
    logits_1TV, _ = call(model, document.ids[None, :-1])
    logp_TV = jax.nn.log_softmax(logits_1TV[0])
    targets_T = document.ids[1:]
    return np.asarray(logp_TV, np.float64)[np.arange(len(targets_T)), targets_T]


@pytest.mark.parametrize(("chunk_length", "batch_size"), [(512, 8), (7, 8), (16, 2), (33, 1)])
def test_a_document_is_scored_whole(lm, chunk_length, batch_size):
    documents = documents_of(lm)
    score = score_documents(
        lm.model, documents, TEXT_BYTES, chunk_length=chunk_length, batch_size=batch_size
    )
    expected = sum(
        -logp_T.sum() for logp_T in (one_pass(lm.model, d) for d in documents if len(d.ids) > 1)
    )
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.tokens == score.bytes == sum(len(text.encode()) for text in TEXTS)


def test_what_a_loss_mask_leaves_out_is_read_and_not_scored(lm):
    random = np.random.default_rng(0)
    documents = [
        Document(d.ids, None if i == 2 else random.random(len(d.ids)) < 0.5)
        for i, d in enumerate(documents_of(lm))
    ]
    score = score_documents(lm.model, documents, 10, chunk_length=16)
    parts = [
        one_pass(lm.model, d)[slice(None) if d.learned is None else d.learned[1:]]
        for d in documents
        if len(d.ids) > 1
    ]
    assert score.tokens == sum(map(len, parts)) < TEXT_BYTES
    assert score.nats == pytest.approx(-sum(part.sum() for part in parts), rel=1e-6)


def test_nats_are_added_in_float64(lm, monkeypatch):
    """In float32 a sum of 2^24 and more no longer grows by 1."""

    def walk(*args, **kwargs):
        logp_BT = np.full((1, 4), [-(2.0**24), -1, -1, -1], np.float32)
        chunk = TokenChunk(0, logp_BT, None, None, np.array([4]))
        return SimpleNamespace(results=lambda: iter([(chunk, logp_BT)]))

    monkeypatch.setattr(ChunkProgram, "walk", walk)
    score = score_documents(lm.model, [Document(np.zeros(5, np.int32))], 1)
    assert score.nats == 2**24 + 3


def test_a_language_model_is_scored_on_texts(lm):
    score = perplexity(lm, iter(TEXTS), chunk_length=16)
    assert score.perplexity == pytest.approx(math.exp(score.nats / score.tokens))
    assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / score.bytes)
    assert score == score_documents(lm.model, documents_of(lm), TEXT_BYTES, chunk_length=16)


def test_bits_per_byte_counts_bytes_not_tokens():
    assert Score(nats=8 * math.log(2.0), tokens=2, bytes=4).bits_per_byte == pytest.approx(2.0)


def test_nothing_to_score_is_refused(lm):
    with pytest.raises(ValueError, match="no text to score"):
        perplexity(lm, ["", ""])
    with pytest.raises(ValueError, match="no text to score"):
        perplexity(lm, [])
    with pytest.raises(ValueError, match="came without a tokenizer"):
        perplexity(LanguageModel(lm.model), ["text"])
