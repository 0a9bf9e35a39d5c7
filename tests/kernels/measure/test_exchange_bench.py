# SPDX-License-Identifier: Apache-2.0
"""The ways that are compared give one result."""

import functools

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from kernels.measure.exchange_bench import WAYS
from tests.kernels.compare import draw


def test_each_way_gives_the_state_that_enters_each_part():
    mesh = jax.make_mesh((8,), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,))
    a_NE, b_NE, h0_E = draw(0, 8, 3), draw(1, 8, 3), draw(2, 1, 3)
    want, h = [], np.asarray(h0_E)[0]
    for a, b in zip(np.asarray(a_NE), np.asarray(b_NE), strict=True):
        want.append(h)
        h = a * h + b
    parts, whole = P("sequence"), P()
    for name, way in WAYS.items():
        run = jax.shard_map(
            functools.partial(way, axis="sequence"),
            mesh=mesh,
            in_specs=(parts, parts, whole),
            out_specs=parts,
            check_vma=False,
        )
        got = jax.jit(run)(a_NE, b_NE, h0_E)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=name)
