# SPDX-License-Identifier: Apache-2.0
"""Documents without an end: what a model computes does not depend on how far it has come, and
nothing happens at 2^31 tokens. (What the model refuses: test_inputs.py.)"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma import chunk
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, init_state
from tests.drawn import untrained
from tests.recurrentgemma.models import GRIFFIN, WINDOW, call, make, tokens

HISTORIES = [10**6, 10**8, 2 * 10**9, 2**31 - 5, 2**32 - 5, 9 * 10**9]
TEXT = 5 * WINDOW
SEEN = 2 * WINDOW  # by two layers of attention


def behind(config, history: int) -> State:
    """A state that has seen nothing but distance: what tokens before it left is zero."""
    step = 2**30 // config.attention_window * config.attention_window
    wraps = max(0, -(-(history + 1 - chunk.LONGEST) // step))
    position = jnp.array([history - wraps * step], jnp.int32)
    wrapped = jnp.array([wraps * step % 2**32], jnp.uint32)
    return init_state(config, 1)._replace(position_B=position, wrapped_B=wrapped)


@functools.cache
def attention_only(window: int) -> Griffin:
    config = dataclasses.replace(
        GRIFFIN, pattern=("local_attention",), num_layers=2, attention_window=window
    )
    return untrained(config)


def run(model: Griffin, text_1T: jax.Array, state: State | None, chunks: tuple[int, ...]):
    """Logits and state of a text that is cut into chunks."""
    logits, start = [], 0
    for size in chunks:
        out, state = call(model, text_1T[:, start : start + size], state)
        logits.append(np.asarray(out[0]))
        start += size
    assert state is not None
    return np.concatenate(logits), state


@pytest.mark.parametrize("window", [WINDOW, WINDOW - 1])  # one that divides 2^32, one that does not
def test_attention_is_the_same_behind_any_history(window: int):
    """The state at 0 is that of a new document; elsewhere the two layers' windows are filled by the
    text itself, and what comes after them must not know where it stands."""
    model, text = attention_only(window), tokens(3, 1, TEXT)
    want, _ = run(model, text, None, (TEXT,))
    for history in HISTORIES:
        for chunks in ((TEXT,), (3, 12, *[1] * 13, 12)):
            got, state = run(model, text, behind(model.config, history), chunks)
            np.testing.assert_allclose(got[SEEN:], want[SEEN:], rtol=0, atol=1e-5)
            assert state.position_B[0] > 2 * window  # no document has started
            true = int(state.position_B[0]) + int(state.wrapped_B[0])
            assert (true - history - TEXT) % 2**32 == 0


def test_state_and_logits_across_the_wrap_are_those_before_it():
    """The whole model, recurrence and convolution too; one call and chunks, single tokens among
    them, end at the same position."""
    model, text = make("griffin"), tokens(4, 1, TEXT)
    want, _ = run(model, text, behind(model.config, 10**6), (TEXT,))
    # in a chunk, in a single token, once more after 2^31, and none
    for history in (chunk.LONGEST - 9, chunk.LONGEST - 20, chunk.LONGEST + 2**30 - 20, 2**31 - 2):
        whole, one = run(model, text, behind(model.config, history), (TEXT,))
        parts, other = run(model, text, behind(model.config, history), (3, 12, *[1] * 13, 12))
        np.testing.assert_allclose(whole, want, rtol=0, atol=2e-5)
        np.testing.assert_allclose(parts, want, rtol=0, atol=2e-5)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
        assert one.position_B.tolist() == other.position_B.tolist()
        assert one.wrapped_B.tolist() == other.wrapped_B.tolist()
        assert 2**29 < int(one.position_B[0]) < chunk.LONGEST


def test_a_document_after_an_endless_one_starts_anew():
    """Positions say where it starts: it sees nothing of what came before, nor has wrapped."""
    model, text = make("griffin"), tokens(5, 1, 12)
    far = behind(model.config, 9 * 10**9)
    going_on = int(far.position_B[0]) + np.arange(4)
    where = np.concatenate([going_on, np.arange(8)])[None].astype(np.int32)
    logits, state = call(model, text, far, positions=where)
    alone, alone_state = call(model, text[:, 4:], positions=where[:, 4:])
    np.testing.assert_allclose(logits[:, 4:], alone, rtol=0, atol=2e-5)
    assert (state.position_B.tolist(), state.wrapped_B.tolist()) == ([8], [0])
    before, _ = call(model, text, far)
    np.testing.assert_allclose(logits[:, :4], before[:, :4], rtol=0, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state, alone_state)


def test_padding_moves_nothing_however_far():
    model, text = make("griffin"), tokens(6, 1, 12)
    far = behind(model.config, 2**31 - 3)
    logits, state = call(model, text, far, lengths=np.array([5]))
    want, want_state = call(model, text[:, :5], far)
    np.testing.assert_allclose(logits[:, :5], want, rtol=0, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state, want_state)
    _, same = call(model, text, far, lengths=np.array([0]))
    jax.tree.map(np.testing.assert_array_equal, same, far)
