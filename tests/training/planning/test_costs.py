# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of rematerialisation, against what JAX itself keeps."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from recurrentgemma.config import Remat
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.presets import recurrentgemma_2b, tiny
from recurrentgemma.remat import KEPT, POLICIES
from training.planning.costs import kept_bytes, training_flops

ONE = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_bytes_kept_are_those_that_jax_keeps(dtype: str):
    """What a policy keeps more than `block`. (What `none` keeps beside it is less sharp.)"""
    config = dataclasses.replace(tiny(), num_layers=4, dtype=dtype, vocab_size=64)
    tokens = 512

    def kept(remat: Remat) -> int:
        chosen = dataclasses.replace(config, remat=remat)
        model = nnx.eval_shape(lambda: Griffin(chosen, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(model, nnx.Param)

        def pullback(params):
            ids = jnp.zeros((1, tokens), jnp.int32)
            batch = Batch(ids, ids, jnp.ones(ids.shape), jnp.arange(tokens)[None])
            return jax.vjp(lambda p: next_token_loss(nnx.merge(graphdef, p), batch)[0], params)[1]

        return sum(
            x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(pullback, params))
        )

    least = kept("block"), kept_bytes(config, tokens, "block")
    for remat in list(KEPT)[1:]:
        more = kept_bytes(config, tokens, remat) - least[1]
        assert tokens * more == pytest.approx(kept(remat) - least[0], rel=0.02), remat


def test_each_policy_keeps_more_and_computes_less_again():
    assert {*POLICIES, "auto"} == set(get_args(Remat))
    config = dataclasses.replace(recurrentgemma_2b(), dtype="bfloat16")
    size, flops = [], []
    for remat in POLICIES:
        chosen = dataclasses.replace(config, remat=remat)
        size.append(kept_bytes(chosen, 8192, remat))
        flops.append(training_flops(chosen, 16, 8192, ONE)["per_device"])
    assert size == sorted(size)
    assert flops == sorted(flops, reverse=True)
    assert flops[-1] == training_flops(config, 16, 8192, ONE)["model"]


def test_flops_on_a_mesh():
    """A divided embedding's logits are computed twice; keys and values on every tensor device."""
    config = dataclasses.replace(recurrentgemma_2b(), remat="none")
    one = training_flops(config, 16, 8192, ONE)
    fsdp = training_flops(config, 16, 8192, {**ONE, "fsdp": 16})
    tokens = 16 * 8192
    assert 16 * fsdp["per_device"] == one["model"] + tokens * 2 * 256_000 * 2560
    tensor = training_flops(config, 16, 8192, {**ONE, "tensor": 2})
    keys = 8 * 2 * 2560 * 2 * 256
    assert 2 * tensor["per_device"] == one["model"] + tokens * 3 * keys
