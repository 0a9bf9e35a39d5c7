# SPDX-License-Identifier: Apache-2.0
"""Every figure of a plan has a floor, and one below it is a bug, not a user's mistake."""

import dataclasses
import math

import pytest

from recurrentgemma import sharding
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import tiny
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.planning import floors
from training.planning.plan import abstract_state


def test_products():
    flops = {"per_device": 200.0, "products": 100.0}
    floors.check_products(101.0, 0.0, flops)
    floors.check_products(110.0, 9.0, flops)  # the compiler repeats some
    for counted in (97.0, 103.0):
        with pytest.raises(
            floors.PlanError, match=r"products take .* the formula says 1\.0000e\+02"
        ):
            floors.check_products(counted, 0.0, flops)
    floors.check_products(3.0, 0.0, {"per_device": 100.0})  # few rows: sums, not products
    with pytest.raises(floors.PlanError):
        floors.check_products(103.0, 0.0, {"per_device": 100.0})


def test_a_figure_below_its_floor():
    floors.check_floor("HBM traffic", 5.4, 5.37)
    with pytest.raises(floors.PlanError, match=r"traffic: counted 3\.16.*below its floor 5\.37"):
        floors.check_floor("HBM traffic", 3.16, 5.37)
    assert not issubclass(floors.PlanError, UserError)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_must_be_sent_for_the_parameters(dtype: str):
    """Two gathers and one scatter of every divided parameter, by rings over four devices."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    config = dataclasses.replace(tiny(), dtype=dtype)
    params = abstract_state(config, mesh)[2].params
    expected = 0.0
    for name, shape in param_shapes(config).items():
        if sharding.gathered_dimension(name) is not None:
            tensor = 1 if "proj_k" in name or "proj_v" in name else 2
            part = math.prod(shape) / tensor / 4
            expected += 3 * part * (2 * (4 if dtype == "float32" else 2) + 4)
    assert floors.exchange_floor(params, mesh.shape, dtype) == expected


def test_what_goes_over_the_axes_that_divide_parameters():
    sent = floors.sent_over_parameters(
        {
            "all-gather over fsdp": {"bytes": 1.0},
            "all-reduce over fsdp,sequence": {"bytes": 2.0},
            "all-reduce over data": {"bytes": 4.0},
            "all-reduce over tensor": {"bytes": 8.0},
        }
    )
    assert sent == 3.0
