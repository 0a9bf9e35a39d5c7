# SPDX-License-Identifier: Apache-2.0
"""KL(teacher || learner) in parts, against the definition on all logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from eval.dynamic.retention import categorical_kl
from recurrentgemma import divergence, losses, parallel
from recurrentgemma.griffin import Griffin
from recurrentgemma.head import capped_logits
from recurrentgemma.sharded import on_mesh
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.kernels.compare import draw
from tests.recurrentgemma.models import make, tokens

TOKENS, WIDTH, VOCAB = 16, 8, 24
CAPS = (3.0, None)


def arrays() -> tuple[jax.Array, ...]:
    """x, embedding, the teacher's two, and weights of which the first is 0."""
    shapes = ((TOKENS, WIDTH), (VOCAB, WIDTH)) * 2
    return (*(draw(i, *shape) for i, shape in enumerate(shapes)), jnp.linspace(0, 1, TOKENS))


def by_definition(x_MD, embedding_VD, theirs_MD, their_VD, weights_M):
    teacher_MV = capped_logits(theirs_MD, their_VD, CAPS[1])
    kl_M = categorical_kl(teacher_MV, capped_logits(x_MD, embedding_VD, CAPS[0]))
    return jnp.sum(weights_M * kl_M), kl_M


def close(got: Any, want: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), got, want)


@pytest.mark.parametrize("least", [TOKENS, 5])  # the last part of 5 is padded
def test_by_tokens(least, monkeypatch):
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", VOCAB)
    monkeypatch.setitem(losses.MIN_CHUNK_TOKENS, "cpu", least)
    given = arrays()

    def in_parts(x_MD, embedding_VD, weights_M):
        result: Any = divergence._by_tokens(x_MD, embedding_VD, given[2], given[3], weights_M, CAPS)
        return 3 * result[0], result[1]

    def whole(x_MD, embedding_VD, weights_M):
        loss, kl_M = by_definition(x_MD, embedding_VD, given[2], given[3], weights_M)
        return 3 * loss, kl_M

    own = given[0], given[1], given[4]
    close(*(jax.value_and_grad(f, (0, 1, 2), has_aux=True)(*own) for f in (in_parts, whole)))


def test_by_vocabulary():
    """Each device holds 12 rows of the vocabulary and 4 of the width; 48 logits at a time make
    three parts of its 8 tokens' logits, or more."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    given = arrays()

    def run(x_MD, own_VP, theirs_MD, their_VP, weights_M):
        def loss(x_MD, own_VP, weights_M):
            x_MD = parallel.replicate(x_MD, "tensor")
            result: Any = divergence._by_vocabulary(
                x_MD, own_VP, theirs_MD, their_VP, weights_M, CAPS, 48
            )
            return result

        return jax.grad(loss, (0, 1, 2), has_aux=True)(x_MD, own_VP, weights_M)

    rows, part = P(("data", "fsdp")), P("tensor", ("fsdp", "sequence"))
    got = jax.jit(on_mesh(mesh, run, (rows, part, rows, part, rows), ((rows, part, rows), rows)))(
        *given
    )
    want = jax.grad(
        lambda x, e, w: by_definition(x, e, given[2], given[3], w), (0, 1, 2), has_aux=True
    )(given[0], given[1], given[4])
    close(got, want)


def test_of_models():
    """The teacher has no gradient, and a model is at no distance from itself, where its gradient is
    zero."""
    model = make("short")
    other = untrained(model.config, 5)
    tokens_BT, weights_BT = tokens(0, 2, 6), jnp.ones((2, 6)) / 12

    def loss(learner, teacher):
        x_BTD, theirs_BTD = (m.hidden(tokens_BT)[0] for m in (learner, teacher))
        return divergence.hidden_divergence(learner, x_BTD, teacher, theirs_BTD, weights_BT)

    logits = nnx.jit(lambda m: m(tokens_BT)[0])
    kl_BT = categorical_kl(logits(other), logits(model))
    pulled = nnx.jit(nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, got_BT), gradients = pulled(model, other)
    np.testing.assert_allclose(got_BT, kl_BT, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(value, jnp.mean(kl_BT), rtol=1e-3)
    assert value > 1e-3
    largest = [max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(g)) for g in gradients]
    assert largest[0] > 1e-3
    assert largest[1] == 0
    (same, _), gradients = pulled(model, make("short"))
    assert abs(float(same)) < 1e-6
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(gradients[0])) < 1e-6


def test_of_two_vocabularies():
    config = dataclasses.replace(make("short").config, vocab_size=65)
    other = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    x_BTD = jnp.ones((1, 2, 32))
    with pytest.raises(ValueError, match="a model of 64 tokens, and a teacher of 65"):
        divergence.hidden_divergence(make("short"), x_BTD, other, x_BTD, jnp.ones((1, 2)))
