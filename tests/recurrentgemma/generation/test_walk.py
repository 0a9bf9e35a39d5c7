# SPDX-License-Identifier: Apache-2.0
"""A walk gives what the model gives in one call, for rows of any lengths, from any state, on any
mesh; and it holds one chunk at a time."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from recurrentgemma import sharding
from recurrentgemma.generation.walk import (
    CHUNKS,
    ChunkProgram,
    TokenChunk,
    Walk,
    chunk_logits,
    chunk_sizes,
    prefill,
)
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.recurrentgemma.generation.small_models import lm_of
from tests.recurrentgemma.models import CONFIGS, call

CONFIG = dataclasses.replace(
    CONFIGS["griffin"], pattern=("recurrent", "local_attention"), num_layers=2
)
LENGTHS = (37, 0, 5)
SIZES = (4, 16)


@pytest.fixture(scope="module")
def model() -> Griffin:
    return untrained(CONFIG)


@pytest.fixture(scope="module")
def program(model):
    """Makes the program of a function, and the parameters to call it with."""

    def make(function, **options) -> tuple[ChunkProgram, nnx.State]:
        graphdef, params = nnx.split(model, nnx.Param)
        if (mesh := options.get("mesh")) is not None:
            params = jax.device_put(params, sharding.shardings(mesh, params))
        return ChunkProgram(function, graphdef, CONFIG, **options), params

    return make


def rows_of(seed: int, lengths=LENGTHS) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, CONFIG.vocab_size, n, np.int32) for n in lengths]


def padded(rows, padding: int = 0) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[padding] * (width - len(row))] for row in rows], np.int32)


def join(walk: Walk, count: int) -> list[np.ndarray]:
    """The results of each row, without padding."""
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    for chunk, result in walk.results():
        for part, values, length in zip(parts, result, chunk.lengths_B, strict=False):
            part.append(values[:length])
    return [np.concatenate(part) for part in parts]


def assert_close(one, other) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, other)


def expected_of(model, rows, targets, positions=None):
    """(log-probabilities and logits of each row, the state), by one call of the model."""
    where: dict[str, Any] = {"lengths": np.array(list(map(len, rows)), np.int32)}
    if positions is not None:
        where = {"positions": padded(positions, -1)}
    logits_BTV, state = call(model, padded(rows), **where)
    logits = [np.asarray(all_TV)[: len(row)] for all_TV, row in zip(logits_BTV, rows, strict=True)]
    logp = [
        np.asarray(jax.nn.log_softmax(logits_TV))[np.arange(len(target)), target]
        for logits_TV, target in zip(logits, targets, strict=True)
    ]
    return logp, logits, state


def test_rows_of_any_lengths_give_what_one_call_gives(model, program):
    rows, targets = rows_of(0), rows_of(1)
    logp, logits, state = expected_of(model, rows, targets)
    scorer, params = program(token_log_probs)
    walk = scorer.walk(params, rows, targets=targets, sizes=SIZES)
    assert_close(join(walk, 3), logp)
    assert_close(walk.state, state)
    reader, params = program(chunk_logits, separate_start=True)
    walk = reader.walk(params, rows, sizes=SIZES)
    assert walk.state is None
    assert_close(join(walk, 3), logits)
    assert_close(walk.state, state)
    reader, params = program(prefill)
    assert_close(reader.walk(params, rows, sizes=SIZES).read_all(), state)


def test_positions_pack_documents_into_a_row(model, program):
    rows, targets = rows_of(0), rows_of(1)
    positions = [[*range(20), *range(17)], [], [0, 0, 1, 0, 1]]
    logp, _, state = expected_of(model, rows, targets, positions)
    scorer, params = program(token_log_probs)
    walk = scorer.walk(params, rows, targets=targets, positions=positions, sizes=SIZES)
    assert_close(join(walk, 3), logp)
    assert_close(walk.state, state)


def test_a_walk_goes_on_from_a_given_state(model, program):
    rows, targets = rows_of(0, (37, 20, 30)), rows_of(1, (37, 20, 30))
    logp, _, state = expected_of(model, rows, targets)
    scorer, params = program(token_log_probs)
    cuts = (20, 20, 7)
    before = [row[:cut] for row, cut in zip(rows, cuts, strict=True)]
    start = scorer.walk(params, before, targets=before, sizes=SIZES).read_all()
    later = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
    wanted = [target[cut:] for target, cut in zip(targets, cuts, strict=True)]
    for _ in range(2):  # a copy is given, so that the state can be used again
        copy = jax.tree.map(jnp.copy, start)
        walk = scorer.walk(params, later, targets=wanted, state=copy, sizes=SIZES)
        assert_close(join(walk, 3), [row[cut:] for row, cut in zip(logp, cuts, strict=True)])
        assert_close(walk.state, state)


def test_rows_without_tokens_leave_the_state_as_it_is(program):
    for separate_start in (False, True):
        reader, params = program(prefill, separate_start=separate_start)
        walk = reader.walk(params, [[], []], sizes=SIZES)
        assert walk.finished
        assert walk.read_all().position_B.tolist() == [0, 0]
        assert list(walk.results()) == []


MESHES = {
    "rows-sequence": MeshConfig(data=2, fsdp=2, sequence=2),
    "tensor-sequence": MeshConfig(data=1, sequence=4, tensor=2),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_walk_over_a_mesh(model, program, name):
    """Three rows do not divide over four devices, nor chunks of 4 and 10 over four."""
    rows, targets = rows_of(0), rows_of(1)
    logp, logits, state = expected_of(model, rows, targets)
    mesh = make_mesh(MESHES[name])
    scorer, params = program(token_log_probs, mesh=mesh)
    walk = scorer.walk(params, rows, targets=targets, sizes=(4, 10))
    assert_close(join(walk, 3), logp)
    assert_close(jax.tree.map(lambda x: np.asarray(x)[:3], walk.state), state)
    reader, params = program(chunk_logits, mesh=mesh, result_spec=sharding.LOGITS)
    assert_close(join(reader.walk(params, rows, sizes=(10,)), 3), logits)


class Recorder:
    """A step that counts the tokens it was given, and notes when its results are fetched."""

    def __init__(self):
        self.events: list[str] = []

    def __call__(self, chunk: TokenChunk, state):
        self.events.append(f"read {chunk.start}")
        recorder = self

        class Result:
            def __array__(self, dtype=None, copy=None):
                recorder.events.append(f"fetch {chunk.start}")
                return np.asarray(chunk.tokens_BT)

        return Result(), state + chunk.lengths_B.sum()


def walk_of(step, rows, *, sizes, state=0) -> Walk:
    return Walk(step, rows, None, None, state=state, sizes=sizes, fresh=lambda n: n)  # type: ignore


def test_a_result_is_fetched_while_the_next_chunk_is_read(monkeypatch):
    monkeypatch.setattr(jax, "device_get", np.asarray)
    recorder = Recorder()
    for chunk, _ in walk_of(recorder, rows_of(0, (11,)), sizes=(4,)).results():
        recorder.events.append(f"use {chunk.start}")
    assert recorder.events == [
        *("read 0", "read 4", "fetch 0", "use 0"),
        *("read 8", "fetch 4", "use 4", "fetch 8", "use 8"),
    ]


@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    sizes=st.sampled_from([CHUNKS, (4, 16), (1,)]),
)
@settings(max_examples=50)
def test_chunks_hold_the_tokens_and_little_else(lengths, sizes):
    chunks = chunk_sizes(max(lengths), sizes)
    assert set(chunks) <= set(sizes)
    assert max(lengths) <= sum(chunks) <= max(2 * max(lengths), sizes[0])
    rows, again = rows_of(0, lengths), [[] for _ in lengths]
    walk = walk_of(Recorder(), rows, sizes=sizes)
    while not walk.finished:
        chunk, _ = walk.advance()
        assert chunk.tokens_BT.shape == (len(rows), chunks.pop(0))
        for row, tokens_T, length in zip(again, chunk.tokens_BT, chunk.lengths_B, strict=True):
            row += tokens_T[:length].tolist()
            assert not tokens_T[length:].any()
    assert again == [row.tolist() for row in rows]
    assert walk.state == sum(lengths)


DOCS = Path(__file__).parents[3] / "docs" / "generation.md"


def test_the_documented_walk():
    [code] = re.findall(r"```python\n([^`]*ChunkProgram\([^`]*)```", DOCS.read_text("utf-8"))
    lm = lm_of("griffin", vocab_size=700)
    names: dict[str, Any] = {"lm": lm}
    exec(code, names)
    expected = [-lm.score(row).sum(dtype=np.float64) for row in names["rows"]]
    np.testing.assert_allclose(names["nats"], expected, rtol=1e-5)
    assert names["walk"].state.position_B.tolist() == [len(row) - 1 for row in names["rows"]]
