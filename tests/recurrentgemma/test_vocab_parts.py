# SPDX-License-Identifier: Apache-2.0
"""The loss by parts of the vocabulary, over a mesh, against the loss by parts of the tokens."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.measure import tpu_compile
from recurrentgemma import losses, parallel, vocab_parts
from recurrentgemma.sharded import on_mesh
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import integers
from tests.kernels.compare import draw

TOKENS, WIDTH, VOCAB = 16, 8, 24


def test_the_loss_and_its_gradients_are_those_of_one_device():
    """Each device holds 12 rows of the vocabulary and 4 of the width; 48 logits at a time make
    three parts of its 8 tokens' logits, or more."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x_MD, embedding_VD = draw(0, TOKENS, WIDTH), draw(1, VOCAB, WIDTH)
    targets_M = integers(2, (TOKENS,), VOCAB)
    weights_M = jnp.linspace(0, 1, TOKENS)
    soft_cap, z_loss = 3.0, 0.1

    def run(x_MD, part_VP, targets_M, weights_M):
        def loss(x_MD, part_VP, weights_M):
            x_MD = parallel.replicate(x_MD, "tensor")
            given = (x_MD, part_VP, targets_M, weights_M, soft_cap, z_loss, 48)
            by_parts: Any = vocab_parts.weighted_loss(*given)
            value, nll_M, log_z_M = by_parts
            return value, (nll_M, log_z_M)

        gradients, aux = jax.grad(loss, (0, 1, 2), has_aux=True)(x_MD, part_VP, weights_M)
        return gradients, aux

    tokens, part = P(("data", "fsdp")), P("tensor", ("fsdp", "sequence"))
    specs = (tokens, part, tokens, tokens)
    outs = ((tokens, part, tokens), (tokens, tokens))
    got = jax.jit(on_mesh(mesh, run, specs, outs))(x_MD, embedding_VD, targets_M, weights_M)

    def whole(x_MD, embedding_VD, weights_M):
        given = (x_MD, embedding_VD, targets_M, weights_M, soft_cap, z_loss)
        by_tokens: Any = losses._weighted_loss(*given)
        value, nll_M, log_z_M = by_tokens
        return value, (nll_M, log_z_M)

    want = jax.grad(whole, (0, 1, 2), has_aux=True)(x_MD, embedding_VD, weights_M)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), got, want)


@pytest.mark.parametrize(
    ("elements", "count"),
    [(10**6, 1), (TOKENS * VOCAB, 1), (TOKENS * VOCAB - 1, 2), (TOKENS * 5, 6), (1, VOCAB)],
)
def test_the_fewest_equal_parts_that_are_small_enough(elements, count):
    parts_NVP = vocab_parts.cut(draw(0, VOCAB, WIDTH), TOKENS, elements)
    assert parts_NVP.shape == (count, VOCAB // count, WIDTH)


@pytest.mark.skipif(tpu_compile.library() is None, reason="libtpu is not installed here")
def test_behind_a_soft_cap_a_tpu_holds_no_logits():
    """Of the normalisers: they are summed up as a product makes logits, and none is written."""
    parts, rows = 2, 65_536  # of logits that would not fit on the chip
    held = {}
    for soft_cap in (None, 30.0):
        program = tpu_compile.compile_for(
            "v5e:2x2",
            functools.partial(vocab_parts._likelihoods, soft_cap=soft_cap),
            jax.ShapeDtypeStruct((1024, 256), jnp.bfloat16),
            jax.ShapeDtypeStruct((parts, rows, 256), jnp.float32),
            jax.ShapeDtypeStruct((1024,), jnp.int32),
        )
        held[soft_cap] = program.temporary
    logits = 4 * 1024 * rows
    assert held[None] > logits
    assert held[30.0] < logits / 2
