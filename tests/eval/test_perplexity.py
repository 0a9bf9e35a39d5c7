# SPDX-License-Identifier: Apache-2.0
"""Bits per byte over documents equals one whole pass over each, however chunked and batched."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from eval.perplexity import Score, perplexity, score_documents
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.griffin import Griffin
from recurrentgemma.presets import tiny
from recurrentgemma.text.byte_tokenizer import ByteTokenizer

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


def one_pass_nats(model: Griffin, ids: list[int]) -> float:
    logits_1TV, _ = model(jnp.array([ids[:-1]]))
    logp_TV = jax.nn.log_softmax(logits_1TV[0])
    return -sum(float(logp_TV[t, target]) for t, target in enumerate(ids[1:]))


@pytest.mark.parametrize(("chunk_length", "batch_size"), [(512, 8), (7, 8), (16, 2), (33, 1)])
def test_a_document_is_scored_whole(lm, chunk_length, batch_size):
    documents = [lm.tokenizer.encode(text) for text in TEXTS]
    score = score_documents(
        lm.model, documents, TEXT_BYTES, chunk_length=chunk_length, batch_size=batch_size
    )
    expected = sum(one_pass_nats(lm.model, ids) for ids in documents if len(ids) > 1)
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.tokens == score.bytes == sum(len(text.encode()) for text in TEXTS)


def test_a_language_model_is_scored_on_texts(lm):
    score = perplexity(lm, iter(TEXTS), chunk_length=16)
    assert score.perplexity == pytest.approx(math.exp(score.nats / score.tokens))
    assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / score.bytes)
    documents = [lm.tokenizer.encode(text) for text in TEXTS]
    assert score == score_documents(lm.model, documents, TEXT_BYTES, chunk_length=16)


def test_bits_per_byte_counts_bytes_not_tokens():
    assert Score(nats=8 * math.log(2.0), tokens=2, bytes=4).bits_per_byte == pytest.approx(2.0)


def test_nothing_to_score_is_refused(lm):
    with pytest.raises(ValueError, match="no text to score"):
        perplexity(lm, ["", ""])
    with pytest.raises(ValueError, match="no text to score"):
        perplexity(lm, [])
    with pytest.raises(ValueError, match="came without a tokenizer"):
        perplexity(LanguageModel(lm.model), ["text"])
