# SPDX-License-Identifier: Apache-2.0
"""What the model refuses, and what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrentgemma as rg
from recurrentgemma.chunk import MOST_TOKENS, check_inputs
from recurrentgemma.params import flat_params, from_flat_params
from tests.recurrentgemma.models import CONFIGS, GRIFFIN, call, make, tokens


def refuses(message: str):
    return pytest.raises(ValueError, match=message)


def test_tokens():
    model = make("griffin")
    with refuses(r"tokens\[0, 2\]=64 is outside the vocabulary of 64 \(ids 0 to 63\)"):
        model(np.array([[1, 2, 64]]))
    with refuses(r"tokens\[1, 0\]=-1 is outside"):
        model(np.array([[1], [-1]]))
    with refuses(r"expected whole numbers of shape \[B, T\], got float32"):
        model(np.ones((1, 2), np.float32))
    with refuses("at least one row and one token, got 1 x 0"):
        model(np.zeros((1, 0), np.int32))
    with refuses(f"tokens: {MOST_TOKENS + 1} a row; expected at most {MOST_TOKENS} in one call"):
        jax.eval_shape(model.hidden, jax.ShapeDtypeStruct((1, MOST_TOKENS + 1), jnp.int32))
    # at padding any id will do
    check_inputs(GRIFFIN, jnp.array([[1, 2, 999]]), None, None, jnp.array([2]))


def test_positions():
    model, x = make("griffin"), tokens(0, 1, 4)
    with refuses(r"positions\[0, 2\]=0|must not go backwards"):
        model(x, positions=np.array([[0, 1, 1, 2]]))
    with refuses(r"positions\[0, 3\]=1 after 2: positions must not go backwards or jump; exp"):
        model(x, positions=np.array([[0, 1, 2, 1]]))
    with refuses(r"positions\[0, 1\]=5 after 0: .* expected 1 to go on with the document, or 0"):
        model(x, positions=np.array([[0, 5, 6, 7]]))
    with refuses(r"positions\[0, 0\]=3 after -1: .* only a document's start may follow padding"):
        model(x, positions=np.array([[3, 4, 5, 6]]))
    with refuses(r"positions\[0, 2\]=2 after -1"):
        model(x, positions=np.array([[0, -1, 2, 3]]))
    with refuses(r"positions\[0, 0\]=-2 .* or -1 for padding"):
        model(x, positions=np.array([[-2, -1, 0, 1]]))
    with refuses(r"positions: expected the shape of tokens, \(1, 4\), got \(4,\)"):
        model(x, positions=np.arange(4))
    _, state = call(model, x)
    check_inputs(GRIFFIN, x, state, jnp.array([[4, 5, 0, 1]]), None)
    with refuses(r"positions\[0, 0\]=5 after 3"):
        model(x, state, positions=np.array([[5, 6, 7, 8]]))


def test_lengths_and_state():
    model, x = make("griffin"), tokens(0, 2, 4)
    with refuses(r"lengths\[1\]=5: expected a number of tokens from 0 to T=4"):
        model(x, lengths=np.array([4, 5]))
    with refuses(r"lengths\[0\]=-1"):
        model(x, lengths=np.array([-1, 4]))
    with refuses(r"lengths: expected shape \(2,\), got \(3,\)"):
        model(x, lengths=np.array([1, 1, 1]))
    with refuses("state: it has 3 rows and tokens 2"):
        model(x, rg.init_state(GRIFFIN, 3))
    other = dataclasses.replace(GRIFFIN, attention_window=GRIFFIN.attention_window + 1)
    with refuses(r"state: layer 2 \(local_attention\) holds .* \(2, .*it is another model's"):
        model(x, rg.init_state(other, 2))
    with refuses("state: it has 1 layers and this model"):
        model(x, rg.init_state(dataclasses.replace(GRIFFIN, num_layers=1), 2))


def test_global_attention_never_forgets_in_silence():
    config = dataclasses.replace(CONFIGS["mqa"], context_length=6)
    model = from_flat_params(config, flat_params(make("mqa")))
    with refuses("a document of 7 tokens is longer than context_length=6"):
        model(tokens(0, 1, 7))
    _, state = call(model, tokens(0, 1, 6))
    with refuses("a document of 7 tokens"):
        model(tokens(0, 1, 1), state)
    check_inputs(config, tokens(0, 1, 8), None, jnp.array([[0, 1, 2, 3, 0, 1, 2, 3]]), None)
    logits, _ = call(model, tokens(0, 1, 7))
    assert not np.isnan(logits[:, :6]).any()
    assert np.isnan(logits[:, 6:]).all()


def test_parameters():
    flat = flat_params(make("griffin"))
    with refuses("parameter 'final_norm/scale' is missing"):
        from_flat_params(GRIFFIN, {k: v for k, v in flat.items() if k != "final_norm/scale"})
    with refuses("parameter 'extra' is not a parameter of this model"):
        from_flat_params(GRIFFIN, {**flat, "extra": jnp.zeros(1)})
    with refuses(r"parameter 'final_norm/scale' has shape \(3,\); expected \(32,\)"):
        from_flat_params(GRIFFIN, {**flat, "final_norm/scale": jnp.zeros(3)})
