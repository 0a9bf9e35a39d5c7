# SPDX-License-Identifier: Apache-2.0
"""The table of parameters: what counts, sharding and names derive from it is frozen here."""

import dataclasses

import jax
import pytest
from flax import nnx

from recurrentgemma import sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import AXES, TABLE, param_shapes, parameters
from recurrentgemma.params import Flat, by_path, unstack
from recurrentgemma.sharding import MESH_AXES
from tests.recurrentgemma.models import CONFIGS

BLOCK = {  # of the Griffin in models.py: its shape, and where it lies
    "temporal_pre_norm/scale": ((32,), ()),
    "channel_pre_norm/scale": ((32,), ()),
    "mlp_block/ffw_gate/weight": ((48, 32), ("mlp", "width")),
    "mlp_block/ffw_gate/bias": ((48,), ("mlp",)),
    "mlp_block/ffw_up/weight": ((48, 32), ("mlp", "width")),
    "mlp_block/ffw_up/bias": ((48,), ("mlp",)),
    "mlp_block/ffw_down/weight": ((32, 48), ("width", "mlp")),
    "mlp_block/ffw_down/bias": ((32,), ()),
}
RECURRENT = {
    "linear_x/weight": ((48, 32), ("channels", "width")),
    "linear_x/bias": ((48,), ("channels",)),
    "linear_y/weight": ((48, 32), ("channels", "width")),
    "linear_y/bias": ((48,), ("channels",)),
    "linear_out/weight": ((32, 48), ("width", "channels")),
    "linear_out/bias": ((32,), ()),
    "conv_1d/w": ((4, 48), (None, "channels")),
    "conv_1d/b": ((48,), ("channels",)),
    "rg_lru/a_param": ((48,), ("channels",)),
    "rg_lru/input_gate/w": ((4, 12, 12), ("gate_blocks", "gate_inputs", None)),
    "rg_lru/input_gate/b": ((4, 12), ("gate_blocks", None)),
    "rg_lru/a_gate/w": ((4, 12, 12), ("gate_blocks", "gate_inputs", None)),
    "rg_lru/a_gate/b": ((4, 12), ("gate_blocks", None)),
}
ATTENTION = {
    "proj_q/weight": ((32, 32), ("heads", "width")),
    "proj_k/weight": ((16, 32), (None, "width")),
    "proj_v/weight": ((16, 32), (None, "width")),
    "proj_final/weight": ((32, 32), ("width", "heads")),
    "proj_final/bias": ((32,), ()),
}


def test_what_it_says_of_a_griffin():
    expected = {
        "embedder/input_embedding": ((64, 32), ("vocab", "width")),
        "final_norm/scale": ((32,), ()),
    }
    for layer, kind in enumerate(CONFIGS["griffin"].block_types):
        rows, block = (RECURRENT, "recurrent") if kind == "recurrent" else (ATTENTION, "attention")
        expected |= {f"blocks.{layer}/{block}_block/{name}": row for name, row in rows.items()}
        expected |= {f"blocks.{layer}/{name}": row for name, row in BLOCK.items()}
    shapes = param_shapes(CONFIGS["griffin"])
    assert {name: (shapes[name], sharding.logical_axes(name)) for name in shapes} == expected


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_has_just_these(kind: str, scanned: bool):
    config = dataclasses.replace(CONFIGS[kind], scan_layers=scanned)

    def flat() -> Flat:
        model = Griffin(config, rngs=nnx.Rngs(0))
        return unstack(config, by_path(nnx.state(model, nnx.Param)))

    shapes = jax.eval_shape(flat)
    assert {name: array.shape for name, array in shapes.items()} == param_shapes(config)
    assert list(param_shapes(config)) == [name for name, _ in parameters(config)]


def test_every_axis_has_its_place_on_the_mesh():
    assert {axis.logical for axis in AXES.values()} <= MESH_AXES.keys()
    last_words = ["/".join(row.name.split("/")[-2:]) for row in TABLE]
    for words in set(last_words):  # what sharding finds a parameter by
        axes = {row.logical_axes for row in TABLE if row.name.endswith(words)}
        assert len(axes) == 1, words
