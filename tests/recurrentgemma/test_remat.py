# SPDX-License-Identifier: Apache-2.0
"""Each policy recomputes the matrix products that it says, in every dtype, and nothing else
changes: counted in compiled programs, here and by the TPU compiler."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.measure import tpu_compile
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.remat import KEPT, POLICIES
from tests.compiling import QUICKLY, compiling
from tests.drawn import untrained
from tests.recurrentgemma.models import GRIFFIN, tokens

pytestmark = pytest.mark.usefixtures("compiled_for_users")

CONFIG = dataclasses.replace(GRIFFIN, num_layers=3, num_gate_blocks=1)
# Products that are computed again, of two recurrent layers and one of attention: linear_x and _y
# or proj_q, _k and _v (7), linear_out and proj_final (3), ffw_gate and ffw_up (6), gates (4), and
# attention's own two, where its output is not kept.
AGAIN = {
    "block": 7 + 3 + 6 + 4 + 2,
    "outputs": 7 + 6 + 4,
    "mixer": 6 + 4,
    "half_mlp": 3 + 4,
    "mlp": 7 + 4,
    "wide": 4,
    "dots": 0,
    "kernels": 0,
    "none": 0,
}


def gradient(remat: str, dtype: str):
    """(the gradient of the loss, shapes of its arguments)."""
    config = dataclasses.replace(CONFIG, remat=remat, dtype=dtype)
    graphdef, params = nnx.split(
        nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))), nnx.Param
    )
    leaves, tree = jax.tree.flatten(params)
    ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)

    def of(ids, *leaves):
        def loss(params):
            batch = Batch(ids, ids, jnp.ones(ids.shape), jnp.arange(16)[None])
            return next_token_loss(nnx.merge(graphdef, params), batch)[0]

        return jax.tree.leaves(jax.grad(loss)(jax.tree.unflatten(tree, leaves)))

    return of, (ids, *leaves)


def products(program: str) -> int:
    return len(re.findall(r" = \S+ (?:dot|convolution)\(", program))


def test_policies_are_in_order():
    assert set(AGAIN) == set(POLICIES)
    assert list(KEPT) == list(POLICIES[:-1])


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_products_on_this_platform(dtype: str):
    """As traced for it; of equal products in float32 the CPU's compiler merges some again, and
    none where the policy keeps them."""
    counts, compiled = {}, {}
    with compiling(**{QUICKLY: True}):  # which is after products were merged
        for remat in POLICIES:
            function, shapes = gradient(remat, dtype)
            lowered = jax.jit(function).lower(*shapes)
            counts[remat] = lowered.as_text().count("stablehlo.dot_general")
            if remat in ("block", "dots", "none"):
                compiled[remat] = products(lowered.compile().as_text() or "")
    assert {remat: n - counts["none"] for remat, n in counts.items()} == AGAIN
    assert compiled["dots"] == compiled["none"] == counts["none"]
    assert compiled["block"] > compiled["dots"]


@pytest.mark.skipif(tpu_compile.library() is None, reason="libtpu is not installed here")
@pytest.mark.parametrize(
    ("dtypes", "policies"),
    [
        (("bfloat16",), ("block", "dots", "none")),
        pytest.param(("float32", "bfloat16"), POLICIES, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_products_on_a_tpu(dtypes: tuple[str, ...], policies: tuple[str, ...]):
    """The kernel of attention hides its own two products. The dtype changes none."""
    counts = {}
    for dtype in dtypes:
        for remat in policies:
            function, shapes = gradient(remat, dtype)
            program = tpu_compile.compile_for("v5e:2x2", function, *shapes)
            counts[dtype, remat] = products(program.text)
    for (dtype, remat), count in counts.items():
        hidden = 2 if remat == "block" else 0
        assert count == counts[dtype, "none"] + AGAIN[remat] - hidden, (dtype, remat)
    assert len({counts[dtype, "dots"] for dtype in dtypes}) == 1


def test_gradients_do_not_depend_on_the_policy():
    config = dataclasses.replace(CONFIG, remat="none")
    params = nnx.state(untrained(config), nnx.Param)
    x = tokens(0, 1, 17)
    batch = Batch(x[:, :-1], x[:, 1:], jnp.ones((1, 16)), jnp.arange(16)[None])

    def grads(remat: str):
        other = nnx.eval_shape(
            lambda: Griffin(dataclasses.replace(config, remat=remat), rngs=nnx.Rngs(0))
        )
        graphdef = nnx.split(other, nnx.Param)[0]

        def loss(params):
            return next_token_loss(nnx.merge(graphdef, params), batch)[0]

        return jax.jit(jax.grad(loss))(params)

    with compiling(**{QUICKLY: True}):
        none = jax.tree.leaves(grads("none"))
        for remat in ("outputs", "mlp", "kernels"):
            for a, b in zip(jax.tree.leaves(grads(remat)), none, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=remat)
