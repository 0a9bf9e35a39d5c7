# SPDX-License-Identifier: Apache-2.0
"""The one table of a model's parameters: canonical name, axes, and by those its shape and where it
lies on a mesh.

    blocks.{i}/mlp_block/ffw_up/weight    F D    [mlp_width, width]    ("mlp", "width")

Counts (counts.py), sharding (sharding.py) and the names in other formats (checkpoints/names.py)
derive from it. `{i}` is the layer. Shape letters: config.py, and

    HK  heads x head size       I, J  inputs and outputs of a gate's block, E / N
    4   the convolution's taps
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from recurrentgemma.config import CONV_WIDTH, BlockType, GriffinConfig

Part = Literal["embedding", "recurrent", "attention", "mlp", "norms"]
LogicalAxes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its size, the config's word for that, and its logical axis (sharding.MESH_AXES)."""

    size: Callable[[GriffinConfig], int]
    field: str
    logical: str | None


AXES = {
    "V": Axis(lambda c: c.vocab_size, "vocab_size", "vocab"),
    "D": Axis(lambda c: c.width, "width", "width"),
    "E": Axis(lambda c: c.lru_width, "lru_width", "channels"),
    "F": Axis(lambda c: c.mlp_width, "mlp_width", "mlp"),
    "HK": Axis(lambda c: c.num_heads * c.head_dim, "num_heads * head_dim", "heads"),
    "K": Axis(lambda c: c.head_dim, "head_dim", None),
    "N": Axis(lambda c: c.num_gate_blocks, "num_gate_blocks", "gate_blocks"),
    "I": Axis(
        lambda c: c.lru_width // c.num_gate_blocks, "lru_width / num_gate_blocks", "gate_inputs"
    ),
    "J": Axis(lambda c: c.lru_width // c.num_gate_blocks, "lru_width / num_gate_blocks", None),
    "4": Axis(lambda c: CONV_WIDTH, "", None),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A row of the table."""

    name: str
    axes: tuple[str, ...]
    part: Part

    def shape(self, config: GriffinConfig) -> tuple[int, ...]:
        return tuple(AXES[axis].size(config) for axis in self.axes)

    @property
    def logical_axes(self) -> LogicalAxes:
        """What MESH_AXES maps to the mesh; () where it lies whole on every device, as norms and
        biases of width D do."""
        return () if self.axes == ("D",) else tuple(AXES[axis].logical for axis in self.axes)


def _rows(part: Part, prefix: str, axes_by_name: dict[str, str]) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(prefix + name, tuple(axes.split()), part) for name, axes in axes_by_name.items()
    )


TABLE: tuple[Parameter, ...] = (
    *_rows("embedding", "", {"embedder/input_embedding": "V D"}),
    *_rows("norms", "blocks.{i}/", {"temporal_pre_norm/scale": "D"}),
    *_rows(
        "recurrent",
        "blocks.{i}/recurrent_block/",
        {
            "linear_x/weight": "E D",
            "linear_x/bias": "E",
            "linear_y/weight": "E D",
            "linear_y/bias": "E",
            "linear_out/weight": "D E",
            "linear_out/bias": "D",
            "conv_1d/w": "4 E",
            "conv_1d/b": "E",
            "rg_lru/a_param": "E",
            "rg_lru/input_gate/w": "N I J",
            "rg_lru/input_gate/b": "N J",
            "rg_lru/a_gate/w": "N I J",
            "rg_lru/a_gate/b": "N J",
        },
    ),
    *_rows(
        "attention",
        "blocks.{i}/attention_block/",
        {
            "proj_q/weight": "HK D",
            "proj_k/weight": "K D",
            "proj_v/weight": "K D",
            "proj_final/weight": "D HK",
            "proj_final/bias": "D",
        },
    ),
    *_rows("norms", "blocks.{i}/", {"channel_pre_norm/scale": "D"}),
    *_rows(
        "mlp",
        "blocks.{i}/mlp_block/",
        {
            "ffw_gate/weight": "F D",
            "ffw_gate/bias": "F",
            "ffw_up/weight": "F D",
            "ffw_up/bias": "F",
            "ffw_down/weight": "D F",
            "ffw_down/bias": "D",
        },
    ),
    *_rows("norms", "", {"final_norm/scale": "D"}),
)


def parameters(config: GriffinConfig) -> Iterator[tuple[str, Parameter]]:
    """Every parameter of a model by canonical name, per layer, in the order of the forward pass."""
    first, *blocks, last = TABLE
    yield first.name, first
    for layer, block_type in enumerate(config.block_types):
        for row in blocks:
            if row.part not in ("recurrent", "attention") or row.part == temporal_part(block_type):
                yield row.name.replace("{i}", str(layer)), row
    yield last.name, last


def temporal_part(block_type: BlockType) -> Part:
    """Which rows a block of a type has besides the MLP's and the norms."""
    return "recurrent" if block_type == "recurrent" else "attention"


def param_shapes(config: GriffinConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by canonical name (per layer, as in checkpoints)."""
    return {name: row.shape(config) for name, row in parameters(config)}
