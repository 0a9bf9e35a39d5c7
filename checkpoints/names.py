# SPDX-License-Identifier: Apache-2.0
"""The table of names: every parameter under its canonical, DeepMind and Hugging Face name.

A row gives the canonical name, the name in DeepMind's Flax checkpoints and in Hugging
Face's, and its kind. The kind says how the array lies in each format (LAYOUTS). DeepMind's PyTorch
names follow from its Flax names by DeepMind's own rule. Everything here works both ways.

The axes of each are in recurrentgemma/parameters.py. `{i}` is the block.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from recurrentgemma.parameters import AXES, TABLE

Format = Literal["griffin", "deepmind-flax", "deepmind-torch", "huggingface"]
FORMATS: tuple[Format, ...] = ("griffin", "deepmind-flax", "deepmind-torch", "huggingface")

FIELDS = {letter: axis.field for letter, axis in AXES.items() if axis.field}  # what sets its size
SHAPES = {row.name: row.axes for row in TABLE}


@dataclasses.dataclass(frozen=True)
class ParameterNames:
    """A row of the table: one parameter's name in every format."""

    canonical: str
    flax: str
    huggingface: str
    kind: str = "as is"

    @property
    def axes(self) -> tuple[str, ...]:
        return SHAPES[self.canonical]

    def name(self, fmt: Format) -> str:
        """The name in one format, with `{i}` for the block."""
        match fmt:
            case "griffin":
                return self.canonical
            case "deepmind-flax":
                return self.flax
            case "deepmind-torch":
                return self.flax.replace("/", ".").replace("kernel", "weight")
            case "huggingface":
                return self.huggingface


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a canonical array lies in a file; `shape` works on sizes and on axis letters alike.

    Where several rows share one tensor (DeepMind's fused MLP), `write` gives each row's part, to be
    concatenated along axis 0 in the order of the rows, and `read` is given its own part.
    """

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[tuple[Any, ...]], tuple[Any, ...]]


AS_IS = Layout(lambda x: x, lambda x: x, lambda s: s)
TRANSPOSED = Layout(lambda x: x.T, lambda x: x.T, lambda s: s[::-1])
DEPTHWISE = Layout(lambda x: x[:, 0].T, lambda x: x.T[:, None], lambda s: (s[1], 1, s[0]))
BRANCH = Layout(lambda x: x[0].T, lambda x: x.T[None], lambda s: (1, s[1], s[0]))
BRANCH_BIAS = Layout(lambda x: x[0, 0, 0], lambda x: x[None, None, None], lambda s: (1, 1, 1, *s))

LAYOUTS: dict[str, dict[Format, Layout]] = {  # kind -> format -> layout; AS_IS where not said
    "as is": {},
    "linear": {"deepmind-flax": TRANSPOSED},
    "conv": {"huggingface": DEPTHWISE},
    "branch": {"deepmind-flax": BRANCH, "deepmind-torch": BRANCH},
    "branch bias": {"deepmind-flax": BRANCH_BIAS, "deepmind-torch": BRANCH_BIAS},
}


def _block(
    prefix: str, hf_prefix: str, *rows: tuple[str, str, str, str]
) -> tuple[ParameterNames, ...]:
    """Rows of one sub-block: canonical, Flax, Hugging Face, kind; "=" is the canonical."""
    block, layer = "blocks.{i}/" + prefix, "model.layers.{i}." + hf_prefix
    return tuple(
        ParameterNames(block + us, block + (us if dm == "=" else dm), layer + hf, kind)
        for us, dm, hf, kind in rows
    )


# Row order is the order of the parts where several rows share a tensor: the GeLU branch is part 0.
ROWS: tuple[ParameterNames, ...] = (
    ParameterNames(
        "embedder/input_embedding",
        "embedder/input_embedding",
        "model.embed_tokens.weight",
    ),
    *_block("", "", ("temporal_pre_norm/scale", "=", "temporal_pre_norm.weight", "as is")),
    *_block(
        "recurrent_block/",
        "temporal_block.",
        ("linear_x/weight", "linear_x/kernel", "linear_x.weight", "linear"),
        ("linear_x/bias", "=", "linear_x.bias", "as is"),
        ("linear_y/weight", "linear_y/kernel", "linear_y.weight", "linear"),
        ("linear_y/bias", "=", "linear_y.bias", "as is"),
        ("linear_out/weight", "linear_out/kernel", "linear_out.weight", "linear"),
        ("linear_out/bias", "=", "linear_out.bias", "as is"),
        ("conv_1d/w", "=", "conv_1d.weight", "conv"),
        ("conv_1d/b", "=", "conv_1d.bias", "as is"),
        ("rg_lru/a_param", "=", "rg_lru.recurrent_param", "as is"),
        ("rg_lru/input_gate/w", "=", "rg_lru.input_gate_weight", "as is"),
        ("rg_lru/input_gate/b", "=", "rg_lru.input_gate_bias", "as is"),
        ("rg_lru/a_gate/w", "=", "rg_lru.recurrent_gate_weight", "as is"),
        ("rg_lru/a_gate/b", "=", "rg_lru.recurrent_gate_bias", "as is"),
    ),
    *_block(
        "attention_block/",
        "temporal_block.",
        ("proj_q/weight", "proj_q/kernel", "q_proj.weight", "linear"),
        ("proj_k/weight", "proj_k/kernel", "k_proj.weight", "linear"),
        ("proj_v/weight", "proj_v/kernel", "v_proj.weight", "linear"),
        ("proj_final/weight", "proj_final/kernel", "o_proj.weight", "linear"),
        ("proj_final/bias", "=", "o_proj.bias", "as is"),
    ),
    *_block("", "", ("channel_pre_norm/scale", "=", "channel_pre_norm.weight", "as is")),
    *_block(
        "mlp_block/",
        "mlp_block.",
        ("ffw_gate/weight", "ffw_up/w", "gate_proj.weight", "branch"),
        ("ffw_gate/bias", "ffw_up/b", "gate_proj.bias", "branch bias"),
        ("ffw_up/weight", "ffw_up/w", "up_proj.weight", "branch"),
        ("ffw_up/bias", "ffw_up/b", "up_proj.bias", "branch bias"),
        ("ffw_down/weight", "ffw_down/kernel", "down_proj.weight", "linear"),
        ("ffw_down/bias", "=", "down_proj.bias", "as is"),
    ),
    ParameterNames("final_norm/scale", "final_norm/scale", "model.final_norm.weight"),
)

_INDEX = re.compile(r"\b(blocks|layers)\.(\d+)\b")


def split_block(name: str) -> tuple[str, int | None]:
    """A name as its template and block: blocks.3/... -> (blocks.{i}/..., 3)."""
    index = _INDEX.search(name)
    if index is None:
        return name, None
    return name[: index.start(2)] + "{i}" + name[index.end(2) :], int(index[2])


def fill_block(template: str, block: int | None) -> str:
    """The inverse of split_block."""
    return template.replace("{i}", str(block))


def rows_by_name(fmt: Format) -> dict[str, tuple[ParameterNames, ...]]:
    """Name template in a format -> the rows that share that tensor, in the order of its parts."""
    table: dict[str, tuple[ParameterNames, ...]] = {}
    for row in ROWS:
        table[row.name(fmt)] = (*table.get(row.name(fmt), ()), row)
    return table


def layout(row: ParameterNames, fmt: Format) -> Layout:
    """How a row's array lies in a format."""
    return LAYOUTS[row.kind].get(fmt, AS_IS)


def file_axes(rows: tuple[ParameterNames, ...], fmt: Format) -> tuple[Any, ...]:
    """Axis letters of a tensor as it lies in a file; a number where no field sets the size."""
    first, *others = layout(rows[0], fmt).shape(rows[0].axes)
    return (first * len(rows) if isinstance(first, int) else first, *others)
