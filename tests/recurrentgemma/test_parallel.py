# SPDX-License-Identifier: Apache-2.0
"""The collectives that the model names: their values, and no gradient counted twice."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel
from recurrentgemma.sharded import on_mesh
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.kernels.compare import draw


def test_outside_of_a_mesh_it_is_the_identity():
    x = draw(0, 4, 6)
    assert parallel.axis("tensor") is None
    assert parallel.divided("data", "tensor") == ()
    for same in (
        parallel.replicate(x, "tensor"),
        parallel.all_reduce(x, "tensor"),
        parallel.gather(x, 0, jnp.dtype("bfloat16")),
        parallel.exchange_rows(x),
        parallel.all_rows(x),
        parallel.largest(x, "tensor"),
    ):
        assert same is x
    assert parallel.first_token(6) == 0
    row, here = parallel.local_rows(jnp.array([0, 3, 9]), 4)
    assert row.tolist() == [0, 3, 3]
    assert here.tolist() == [True, True, False]


def test_a_product_over_tensor_has_the_gradients_of_one_device():
    """Megatron's pair: columns of one matrix, rows of the next, and one sum."""
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    x_MD, w_DE, v_ED = draw(0, 4, 3), draw(1, 3, 8), draw(2, 8, 3)

    def product(x_MD, w_DE, v_ED):
        y_ME = jnp.tanh(parallel.replicate(x_MD, "tensor") @ w_DE)
        return parallel.all_reduce(y_ME @ v_ED, "tensor")

    def gradients(x_MD, w_DE, v_ED):
        def loss(x_MD, w_DE, v_ED):
            w_DE, v_ED = (parallel.gather(w, None, w.dtype) for w in (w_DE, v_ED))
            squares = jnp.sum(jnp.square(product(x_MD, w_DE, v_ED)))
            return parallel.all_reduce(squares, "data")

        return jax.value_and_grad(loss, (0, 1, 2))(x_MD, w_DE, v_ED)

    specs = (P("data"), P(None, "tensor"), P("tensor"))
    got = jax.jit(on_mesh(mesh, gradients, specs, (P(), specs)))(x_MD, w_DE, v_ED)
    want = gradients(x_MD, w_DE, v_ED)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, want)


def test_a_parameter_is_gathered_and_its_gradient_scattered():
    """What travels is bfloat16; the gradient is summed in float32 over all that saw other tokens,
    and comes back in the parameter's own dtype."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, sequence=2))
    x_MD, w_DE = draw(0, 8, 4), draw(1, 4, 6)

    def run(x_MD, w_DE):
        def loss(w_DE):
            whole_DE = parallel.gather(w_DE, 0, jnp.dtype("bfloat16"))
            return jnp.sum(x_MD @ whole_DE.astype(jnp.float32)), whole_DE

        return jax.grad(loss, has_aux=True)(w_DE)

    tokens, part = P(("data", "fsdp", "sequence")), P(("fsdp", "sequence"))
    d_w_DE, whole_DE = jax.jit(on_mesh(mesh, run, (tokens, part), (part, P())))(x_MD, w_DE)
    np.testing.assert_array_equal(whole_DE, w_DE.astype(jnp.bfloat16))
    assert d_w_DE.dtype == jnp.float32
    want_DE = np.tile(np.asarray(x_MD).sum(0)[:, None], (1, 6))
    np.testing.assert_allclose(d_w_DE, want_DE, rtol=2e-2, atol=2e-2)  # each part in bfloat16


def test_rows_and_channels_change_places():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    x_RC = draw(0, 8, 4)

    def run(x_RC):
        index = jnp.array([0, 3, 5])
        own_row, here = parallel.local_rows(index, 4)
        return (
            parallel.exchange_rows(x_RC),
            parallel.largest(jax.lax.axis_index("tensor"), "tensor")[None],
            jnp.where(here, own_row, -1)[None],
            jnp.asarray(parallel.first_token(5))[None],
        )

    parts = P(None, ("fsdp", "sequence"))
    outs = (P(("fsdp", "sequence")), P(), P("tensor"), P("sequence"))
    rows_RC, largest, rows, first = jax.jit(on_mesh(mesh, run, parts, outs))(x_RC)
    np.testing.assert_array_equal(rows_RC, x_RC)
    assert largest.tolist() == [1]
    assert rows.tolist() == [[0, 3, -1], [-1, -1, 1]]
    assert first.tolist() == [0, 5]
