# SPDX-License-Identifier: Apache-2.0
"""Where parameters lie on a mesh, and meshes that do not fit."""

import dataclasses

import pytest

from recurrentgemma import sharding
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import PRESETS, griffin_14b, recurrentgemma_2b, recurrentgemma_9b
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.recurrentgemma.models import CONFIGS


def sizes_of(**sizes: int) -> dict[str, int]:
    return {axis: sizes.get(axis, 1) for axis in sharding.MESH_AXIS_NAMES}


def test_a_model_that_the_mesh_does_not_divide():
    for config, sizes, message in (
        (recurrentgemma_2b(), {"tensor": 4}, r"tensor=4 .* num_heads=10; the nearest .* tensor=2"),
        (
            recurrentgemma_9b(),
            {"tensor": 3, "data": 4},
            r"tensor=3 .* vocab_size=256000; .* tensor=2",
        ),
        (griffin_14b(), {"tensor": 16}, r"tensor=16 .* num_heads=40; .* tensor=8"),
        (recurrentgemma_2b(), {"fsdp": 96}, r"fsdp=96 .* width=2560; the nearest .* fsdp=32"),
    ):
        with pytest.raises(ValueError, match=message):
            sharding.check_model(config, sizes_of(**sizes))
    sharding.check_model(recurrentgemma_2b(), sizes_of(tensor=2, fsdp=128))
    sharding.check_model(recurrentgemma_9b(), sizes_of(tensor=16, fsdp=16))
    no_attention = dataclasses.replace(CONFIGS["hawk"], num_heads=3)
    sharding.check_model(no_attention, sizes_of(tensor=4))


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (MeshConfig(data=3, fsdp=2), 8, r"takes 6 devices and there are 8; data=4 would fit"),
        (MeshConfig(tensor=3), 8, r"takes a multiple of 3 devices and there are 8; tensor=2 would"),
        (MeshConfig(data=16), 8, r"takes 16 devices and there are 8; data=8 would fit"),
    ],
)
def test_a_mesh_that_the_devices_do_not_fill(config, devices, message):
    with pytest.raises(ValueError, match=message):
        config.resolved(devices)


def test_sizes_that_are_none():
    with pytest.raises(ValueError, match=r"mesh.fsdp=0: expected at least 1, or -1"):
        MeshConfig(fsdp=0)
    with pytest.raises(ValueError, match="one axis at most may be -1"):
        MeshConfig(fsdp=-1)
    assert MeshConfig(fsdp=2).resolved(8) == MeshConfig(data=4, fsdp=2)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_table_knows_every_parameter(name):
    """What it does not name is a vector of the model's width: a norm, or the bias after a sum."""
    config = PRESETS[name]()
    for parameter, shape in param_shapes(config).items():
        axes = sharding.logical_axes(parameter)
        assert len(axes) == len(shape) or (axes == () and shape == (config.width,))
        spec = sharding.param_spec(parameter, len(shape) + 1)  # one of stacked layers
        assert axes == () or spec[0] is None


def test_slices_are_for_the_data_axis():
    class Chip:
        platform = "tpu"

        def __init__(self, index: int):
            self.slice_index = index // 4

    with pytest.raises(ValueError, match=r"data=1 does not divide over 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=8), [Chip(i) for i in range(8)])
