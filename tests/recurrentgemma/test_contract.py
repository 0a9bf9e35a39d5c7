# SPDX-License-Identifier: Apache-2.0
"""The state contract (docs/architecture.md): however a sequence is run, it is the same."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.local_attention import xla
from recurrentgemma import layers
from tests.compiling import for_users
from tests.recurrentgemma.contract import (
    BUCKETS,
    FIRST_BUCKETS,
    LONGEST,
    ROWS,
    Feeding,
    Step,
    check,
    same_state,
)
from tests.recurrentgemma.models import WINDOW, call, make, tokens

KINDS = ("hawk", "mqa", "short")


@st.composite
def feedings(draw: st.DrawFn) -> Feeding:
    document = st.one_of(st.just(1), st.integers(2, 6), st.integers(7, LONGEST))
    rows = tuple(tuple(draw(st.lists(document, min_size=1, max_size=4))) for _ in range(ROWS))
    steps = []
    done = [0] * ROWS
    while any(done[r] < sum(rows[r]) for r in range(ROWS)):
        bucket = draw(st.sampled_from(BUCKETS if steps else FIRST_BUCKETS))
        full = draw(st.booleans())  # a whole bucket, or any number of tokens down to none
        lengths = tuple(bucket if full else draw(st.integers(0, bucket)) for _ in range(ROWS))
        if len(steps) >= 10:  # enough small steps: finish
            bucket, lengths = LONGEST, (LONGEST,) * ROWS
        before = draw(st.sampled_from(("nothing", "nothing", "rollback", "move", "save")))
        steps.append(Step(bucket, lengths, before))
        done = [min(done[r] + lengths[r], sum(rows[r])) for r in range(ROWS)]
    return Feeding(rows, tuple(steps), seed=draw(st.integers(0, 9)))


# Shows each way to break the contract: packed documents down to one token, chunks that cut them
# anywhere, several windows; few programs, for they are compiled again for each way.
SHARP = Feeding(
    rows=((1, 2, LONGEST, 1, 1, 3), (LONGEST,), (2, 1, 30)),
    steps=(Step(12, (9, 12, 5)), Step(LONGEST, (LONGEST,) * ROWS, "move")),
)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("short", "float32"),
        pytest.param("short", "bfloat16", marks=pytest.mark.slow),
        ("hawk", "float32"),
        pytest.param("mqa", "float32", marks=pytest.mark.slow),
        pytest.param("griffin", "float32", marks=pytest.mark.slow),
        pytest.param("hawk", "bfloat16", marks=pytest.mark.slow),
        pytest.param("mqa", "bfloat16", marks=pytest.mark.slow),
    ],
)
@settings(max_examples=20)
@given(feeding=feedings())
def test_any_run_equals_the_document_alone(kind, dtype, feeding: Feeding):
    check(make(kind, dtype), feeding)


def _without_document_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    call = layers.Conv1D.__call__
    monkeypatch.setattr(
        layers.Conv1D,
        "__call__",
        lambda self, x, past, positions: call(self, x, past, positions + 9),
    )


def _without_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    rg_lru = layers.rg_lru
    monkeypatch.setattr(
        layers, "rg_lru", lambda *args, reset_BT, **kw: rg_lru(*args, reset_BT=None, **kw)
    )


def _window_too_wide_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    right = xla.attention

    def wide(q, k, v, past_k, *args, window):
        return right(q, k, v, past_k, *args, window=window + (past_k is None))

    monkeypatch.setattr(xla, "attention", wide)


def _window_ignores_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    right = xla.attention

    def leaky(q, k, v, past_k, past_v, positions, start, *, window):
        return right(q, k, v, past_k, past_v, positions + window, start, window=window)

    monkeypatch.setattr(xla, "attention", leaky)


@for_users()
def test_the_plan_that_shows_breakage_passes():
    check(make("short"), SHARP)


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize(
    "break_it",
    [
        _without_document_mask,
        _without_reset,
        _window_too_wide_in_chunks,
        _window_ignores_documents,
    ],
)
def test_the_check_goes_red_when_the_model_is_broken(break_it, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match="Not equal"):
        check(make("short"), SHARP)


@pytest.mark.parametrize("kind", [pytest.param("hawk", marks=pytest.mark.slow), "mqa", "short"])
def test_decoding_over_several_wraps_of_the_ring(kind: str):
    model, sequence = make(kind), tokens(0, 2, 5 * WINDOW + 3)
    whole, _ = call(model, sequence)
    logits, state = call(model, sequence[:, : WINDOW + 3])  # a chunk longer than the window
    pieces = [logits]
    for t in range(WINDOW + 3, sequence.shape[1]):
        logits, state = call(model, sequence[:, t : t + 1], state)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_never_enters_the_state(kind: str):
    model, sequence = make(kind), tokens(3, 1, 12)
    logits, state = call(model, sequence)
    padded = np.concatenate([tokens(4, 1, 7), sequence], 1)
    positions = np.concatenate([np.full((1, 7), -1), np.arange(12)[None]], 1)
    padded_logits, padded_state = call(model, padded, positions=positions)
    np.testing.assert_allclose(padded_logits[:, 7:], logits, rtol=0, atol=2e-5)
    same_state(padded_state, state, 2e-5)


def test_a_row_of_padding_leaves_its_state_alone():
    model = make("griffin")
    _, state = call(model, tokens(5, 2, 11))
    _, after = call(model, tokens(6, 2, 4), state, lengths=np.array([0, 4]))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    _, after = call(model, tokens(6, 2, 1), state, lengths=np.array([0, 1]))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_shapes_are_equal_bit_for_bit(kind: str, compiled_for_users: None):
    model, sequence = make(kind), tokens(1, 3, 20)
    logits, state = call(model, sequence)
    swapped_logits, swapped_state = call(model, sequence[::-1])
    np.testing.assert_array_equal(logits, swapped_logits[::-1])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(swapped_state), strict=True):
        np.testing.assert_array_equal(a, b[::-1])
    other = tokens(2, 3, 20).at[1].set(sequence[1])
    np.testing.assert_array_equal(call(model, other)[0][1], logits[1])
