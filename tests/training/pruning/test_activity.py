# SPDX-License-Identifier: Apache-2.0
"""Sums over chunks are the direct formula's numbers, whatever the chunks; padding is not seen."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.documents import InMemory
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params, from_flat_params
from tests.drawn import untrained
from tests.recurrentgemma.models import SHORT
from training.data.document import Document
from training.data.held_out import HeldOut
from training.pruning.activity import UnitActivity, unit_activity


@pytest.fixture(scope="module")
def flat():
    """In the first layer unit 0 is zero, unit 1 constant, and unit 2 always above 3."""
    flat = dict(flat_params(untrained(SHORT, 1)))
    gate, up = (f"blocks.0/mlp_block/ffw_{name}" for name in ("gate", "up"))
    for name in (gate, up):
        flat[f"{name}/weight"] = flat[f"{name}/weight"].at[:2].set(0.0)
        flat[f"{name}/bias"] = flat[f"{name}/bias"].at[1].set(1.7)
    return flat


def documents(*lengths: int) -> InMemory:
    rng = np.random.default_rng(0)
    texts = [Document(rng.integers(0, SHORT.vocab_size, n).astype(np.int32)) for n in lengths]
    return InMemory(HeldOut(f"{n}", text, 1) for n, text in enumerate(texts))


@jax.jit
def hidden(flat, tokens_1T: jax.Array) -> jax.Array:
    """h_LTF of one text."""
    model, seen = from_flat_params(SHORT, flat), []

    def watched(down, h_BTF):
        seen.append(h_BTF[0])
        return down(h_BTF)

    for block in model.blocks:
        mlp: Any = block.mlp_block
        mlp.ffw_down = partial(watched, mlp.ffw_down)
    model(tokens_1T)
    return jnp.stack(seen)


def directly(flat, texts: InMemory) -> UnitActivity:
    every = [hidden(flat, texts.read(n).document.ids[None, :-1]) for n in range(len(texts))]
    h_LMF = np.concatenate(every, 1).astype(np.float64)
    return UnitActivity(h_LMF.shape[1], h_LMF.mean(1), h_LMF.var(1), h_LMF.min(1), h_LMF.max(1))


def test_it_is_the_direct_formula(flat):
    texts = documents(70, 33, 2, 9)
    expected = directly(flat, texts)
    for scan_layers, chunk_length in ((False, 16), (True, 64)):
        config = dataclasses.replace(SHORT, scan_layers=scan_layers)
        model = from_flat_params(config, flat)
        got = unit_activity(model, texts, batch_size=2, chunk_length=chunk_length)
        assert got.tokens == expected.tokens == 70 + 33 + 2 + 9 - 4
        for name in ("mean_LF", "variance_LF", "least_LF", "greatest_LF"):
            np.testing.assert_allclose(
                getattr(got, name), getattr(expected, name), rtol=1e-5, atol=1e-6, err_msg=name
            )
        assert np.flatnonzero(got.constant_LF[0]).tolist() == [0, 1]
        assert not got.constant_LF[1:].any()
        constant = float(jax.nn.gelu(1.7) * 1.7)
        assert got.mean_LF[0, :2] == pytest.approx([0, constant], rel=1e-6)
        assert got.variance_LF[0, :2].tolist() == [0, 0]


def test_no_text(flat):
    with pytest.raises(UserError, match="there is no text to read"):
        unit_activity(from_flat_params(SHORT, flat), documents(1))
