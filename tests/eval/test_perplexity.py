# SPDX-License-Identifier: Apache-2.0
"""Bits per byte over documents equals one whole pass over each, however chunked and batched."""

import dataclasses
import math
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from eval import perplexity as perplexity_module
from eval.documents import InMemory
from eval.perplexity import Score, perplexity, rounded, score_all, score_documents
from eval.positions import doubling
from eval.results import open_results
from eval.windows import Windows
from recurrentgemma import chunk, sharding
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.griffin import Griffin
from recurrentgemma.presets import HAWK, MQA, tiny
from recurrentgemma.sharding import MeshConfig, make_mesh
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.drawn import untrained
from tests.recurrentgemma.models import call
from training.data.document import Document
from training.data.held_out import HeldOut

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
    return LanguageModel(untrained(config), ByteTokenizer())


def documents_of(lm) -> list[Document]:
    return [Document(np.array(lm.tokenizer.encode(text), np.int32)) for text in TEXTS]


def one_pass(model: Griffin, document: Document) -> np.ndarray:
    """The log-probability of each target, in float64. What follows the document changes none."""
    targets_T = document.ids[1:]
    longer = np.zeros((1, -len(targets_T) % 320 + len(targets_T)), np.int32)
    longer[0, : len(targets_T)] = document.ids[:-1]
    logits_1TV, _ = call(model, longer)
    logp_TV = jax.nn.log_softmax(logits_1TV[0])
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
    with pytest.raises(UserError, match=r"one text of 5 characters: .* put it in brackets"):
        perplexity(lm, "hello")
    with pytest.raises(ValueError, match="came without a tokenizer"):
        perplexity(LanguageModel(lm.model), ["text"])


LENGTHS = [300, 2, 40, 1, 90, 7, 33, 120]


def random_documents(vocab_size: int, lengths: list[int]) -> InMemory:
    random = np.random.default_rng(0)
    ids = [random.integers(0, vocab_size, n).astype(np.int32) for n in lengths]
    return InMemory(HeldOut(f"document {n}", Document(x), len(x)) for n, x in enumerate(ids))


def by_position(model: Griffin, document: Document, edges: tuple[int, ...]) -> list[float]:
    logp_T = one_pass(model, document)
    position_T = np.arange(1, len(document.ids))
    bucket_T = np.searchsorted(edges, position_T, side="right") - 1
    return [-logp_T[bucket_T == k].sum() for k in range(len(edges))]


def test_by_document_source_and_position(lm):
    documents, edges = random_documents(261, LENGTHS), doubling(128)
    seen = []
    scores = score_all(
        lm.model,
        documents,
        chunk_length=16,
        batch_size=4,
        edges=edges,
        progress=lambda *numbers: seen.append(numbers),
    )
    assert [one.name for one in scores.documents] == [f"document {n}" for n in range(8)]
    assert [one.score.tokens for one in scores.documents] == [n - 1 for n in LENGTHS]
    whole = scores.score
    assert (whole.tokens, whole.bytes) == (sum(LENGTHS) - 8, sum(LENGTHS))
    assert scores.by_source() == {"memory": whole}
    expected = [
        [0.0] * len(edges) if n < 2 else by_position(lm.model, documents.read(i).document, edges)
        for i, n in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(scores.sums.nats_UK, expected, rtol=2e-5, atol=1e-4)
    read, nats, tokens = zip(*seen, strict=True)
    assert read[-1] == whole.tokens
    assert list(read) == sorted(read)
    assert tokens[-1] <= whole.tokens
    assert nats[-1] <= whole.nats * (1 + 1e-9)


def test_a_mesh_changes_nothing_but_rounding(lm):
    """Rows over data, every row's tokens over sequence."""
    mesh = make_mesh(MeshConfig(data=2, sequence=2), jax.devices()[:4])
    graphdef, params = nnx.split(lm.model, nnx.Param)
    model = nnx.merge(graphdef, jax.device_put(params, sharding.shardings(mesh, params)))
    documents = random_documents(261, LENGTHS)
    sizes = rounded(3, 15, mesh)
    assert sizes == (4, 16)
    on_mesh = score_all(model, documents, batch_size=3, chunk_length=15, mesh=mesh)
    alone = score_all(lm.model, documents, batch_size=4, chunk_length=16)
    assert on_mesh.score.nats == pytest.approx(alone.score.nats, rel=1e-6)
    assert on_mesh.score.tokens == alone.score.tokens


class Killed(Exception):
    """In the place of kill -9, at the worst place: between two chunks, nothing more is kept."""


@pytest.mark.parametrize("stop", [1, 7])
def test_killed_and_started_again_it_ends_with_the_same_numbers(
    lm, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(perplexity_module, "KEEP_SECONDS", 0.0)
    documents = random_documents(261, LENGTHS)
    options = {"chunk_length": 16, "batch_size": 4, "edges": doubling(128)}
    whole = score_all(lm.model, documents, **options)
    calls = []

    def progress(*numbers: float) -> None:
        calls.append(numbers)
        if len(calls) == stop + 1:
            raise Killed

    with (
        pytest.raises(Killed),
        open_results(tmp_path, kind="perplexity", settings={}) as results,
    ):
        score_all(lm.model, documents, **options, results=results, progress=progress)
    again = []
    with open_results(tmp_path, kind="perplexity", settings={}) as results:
        scores = score_all(
            lm.model,
            documents,
            **options,
            results=results,
            progress=lambda *numbers: again.append(numbers),
        )
    assert again[0][0] == calls[stop][0], "it began anew, or read something twice"
    np.testing.assert_equal(scores.sums._asdict(), whole.sums._asdict())
    assert scores.documents == whole.documents


def test_windows_of_global_attention(lm):
    """Each target is predicted from its own window, read on its own."""
    config = dataclasses.replace(lm.config, pattern=MQA, context_length=320, num_layers=2)
    params = nnx.split(untrained(config))[1]
    wide = nnx.merge(nnx.split(untrained(config))[0], params)
    config = dataclasses.replace(config, context_length=24)
    model = nnx.merge(nnx.split(untrained(config))[0], params)
    documents = random_documents(261, [80, 10])
    with pytest.raises(UserError, match=r"document 0 has 79 tokens.*--window 24 --stride 12"):
        score_all(model, documents, chunk_length=16)
    windows = Windows(24, 10)
    scores = score_all(model, documents, chunk_length=16, batch_size=4, cut=windows)
    expected = 0.0
    for number in range(2):
        ids = documents.read(number).document.ids
        for span in windows(len(ids)):
            logp_T = one_pass(wide, Document(ids[span.start : span.stop]))
            expected -= logp_T[span.scored - span.start - 1 :].sum()
    assert scores.score.nats == pytest.approx(expected, rel=1e-5)
    assert scores.score.tokens == 79 + 9


def test_a_document_beyond_where_positions_wrap(lm, monkeypatch: pytest.MonkeyPatch):
    """2^31 tokens take too long: positions that go back sooner, by a multiple of the window."""
    document = random_documents(261, [400]).read(0)
    expected = score_all(lm.model, InMemory([document]), chunk_length=16).score.nats
    monkeypatch.setattr(chunk, "LONGEST", 100)
    monkeypatch.setattr(chunk, "wraps_by", lambda window: 4 * window)
    perplexity_module._program.cache_clear()
    jax.clear_caches()
    scores = score_all(lm.model, InMemory([document]), chunk_length=16)
    monkeypatch.undo()
    perplexity_module._program.cache_clear()
    jax.clear_caches()
    assert scores.score.nats == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_million_tokens_are_the_sum_of_any_chunking_in_constant_memory():
    """Read in chunks of 512 and of 4,096 tokens, and alone or beside other documents."""
    config = dataclasses.replace(
        tiny(),
        vocab_size=64,
        width=16,
        mlp_width=24,
        num_layers=3,
        lru_width=16,
        head_dim=8,
        num_heads=2,
        attention_window=16,
    )
    for pattern in (config.pattern, HAWK):
        model = untrained(dataclasses.replace(config, pattern=pattern))
        book = random_documents(64, [1_000_001, *[500] * 40])
        alone = InMemory([book.read(0)])
        nats = []
        for chunk_length, documents in ((512, alone), (4096, alone), (512, book)):
            memory: list[tuple[int, int, int]] = []

            def progress(read: int, *_: float, memory=memory) -> None:
                if not memory or read > memory[-1][0] + 100_000:
                    live = sum(array.nbytes for array in jax.live_arrays())
                    resident = int(Path("/proc/self/statm").read_text().split()[1])
                    memory.append((read, live, resident * resource.getpagesize()))

            scores = score_all(
                model, documents, batch_size=4, chunk_length=chunk_length, progress=progress
            )
            nats.append(scores.sums.nats_UK[0].sum())
            late = [(live, resident) for read, live, resident in memory if read > 300_000]
            assert len({live for live, _ in late}) == 1, memory
            assert max(r for _, r in late) - late[0][1] < 2**26, memory  # malloc breathes
        assert nats == pytest.approx([nats[0]] * 3, rel=1e-5)
