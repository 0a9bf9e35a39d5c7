# SPDX-License-Identifier: Apache-2.0
"""The state contract over a mesh (its point 4), and meshes that do not fit."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import PRESETS, griffin_14b, recurrentgemma_2b, recurrentgemma_9b
from recurrentgemma.sharded import ShardedGriffin
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.recurrentgemma.models import call

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = GriffinConfig(
    vocab_size=32,
    width=16,
    mlp_width=24,
    num_layers=3,
    lru_width=32,
    num_gate_blocks=4,
    num_heads=4,
    head_dim=8,
    attention_window=9,
    pattern=("recurrent", "local_attention"),
)
MESHES = {
    "sequence": MeshConfig(data=1, sequence=8),
    "tensor-fsdp": MeshConfig(data=1, fsdp=2, tensor=4),
    "mixed": MeshConfig(data=2, sequence=2, tensor=2),
}


@pytest.fixture(scope="module")
def model():
    return Griffin(CONFIG, rngs=nnx.Rngs(0))


def chunks(kind: str):
    """(tokens, positions, lengths) of three calls: the second is one token a device of eight."""
    rng = np.random.default_rng(0)
    for first, last in itertools.pairwise((0, 16, 24, 48)):
        tokens = rng.integers(0, CONFIG.vocab_size, (4, last - first), np.int32)
        if kind == "padded":  # whole, in part, not at all; the cut lies inside a part
            lengths = np.minimum([last - first, 5, 0, 17], last - first)
            yield tokens, None, lengths
        else:  # documents begin on, before and after cuts; one row goes on
            starts = np.asarray([[16, 24, 30], [2, 17, 29], [7, 23, 47], [99, 99, 99]])
            t = np.arange(first, last)
            passed = np.where(starts[:, :, None] <= t, starts[:, :, None], 0).max(1)
            yield tokens, (t - passed).astype(np.int32), None


@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize("name", sorted(MESHES))
def test_logits_and_state_are_those_of_one_device(model, name, kind):
    sharded = ShardedGriffin(model, make_mesh(MESHES[name]))
    want_state = got_state = None
    for tokens, positions, lengths in chunks(kind):
        where = {"positions": positions, "lengths": lengths}
        want, want_state = call(model, tokens, want_state, **where)
        got, got_state = sharded(tokens, got_state, **where)
        real = np.ones(tokens.shape, bool)
        if lengths is not None:
            real = np.arange(tokens.shape[1])[None] < lengths[:, None]
        np.testing.assert_allclose(np.asarray(got)[real], np.asarray(want)[real], atol=2e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(np.asarray(a), b, atol=2e-5),
            got_state,
            want_state,
        )


def test_a_state_moves_between_meshes_and_one_device(model):
    """What one device has read, eight go on from, and back."""
    sharded = ShardedGriffin(model, make_mesh(MESHES["mixed"]))
    one_device = functools.partial(call, model)
    calls = [tokens for tokens, _, _ in chunks("packed")]
    state = want_state = None
    for tokens, run in zip(calls, (one_device, sharded, one_device), strict=True):
        want, want_state = call(model, tokens, want_state)
        got, state = run(tokens, jax.tree.map(np.asarray, state))
        np.testing.assert_allclose(np.asarray(got), want, atol=2e-5)


def sizes_of(**sizes: int) -> dict[str, int]:
    return {axis: sizes.get(axis, 1) for axis in sharding.AXES}


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
    no_attention = dataclasses.replace(CONFIG, pattern=("recurrent",), num_heads=3)
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


def test_a_call_that_the_mesh_does_not_divide(model):
    sharded = ShardedGriffin(model, make_mesh(MESHES["mixed"]))
    with pytest.raises(ValueError, match="a batch of 3 rows does not divide"):
        sharded(np.zeros((3, 8), np.int32))
    with pytest.raises(ValueError, match=r"tokens\[0, 0\]=32 is outside the vocabulary"):
        sharded(np.full((2, 8), 32, np.int32))
