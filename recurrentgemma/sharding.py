# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices, and what lies where on it (Griffin paper, section 4.1).

    data       replicas: each takes other rows of a batch
    fsdp       the same, and each keeps only its part of parameters and optimizer state
    sequence   one long row over several devices; these keep only their part of parameters, too
    tensor     Megatron: heads, MLP units, vocabulary and the channels of the recurrence

Every dimension of every array has a logical axis (of parameters: parameters.py); MESH_AXES maps
those to the mesh.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import TABLE, LogicalAxes
from recurrentgemma.state import AttentionState, RecurrentState, State

MESH_AXIS_NAMES = ("data", "fsdp", "sequence", "tensor")
TOKEN_AXES = ("data", "fsdp", "sequence")  # axes whose devices see different tokens
PARAMETER_AXES = ("fsdp", "sequence")  # those of them over which a parameter is divided

MESH_AXES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "time": "sequence",
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "channels": "tensor",
    "gate_blocks": "tensor",
    "width": PARAMETER_AXES,  # of a parameter; activations keep all of it
    "gate_inputs": PARAMETER_AXES,
    None: None,
}

PARAMETERS = {  # by the last two words of the canonical name
    "/".join(row.name.split("/")[-2:]): row.logical_axes for row in TABLE
}

BATCH = P(("data", "fsdp"), "sequence")
"""[B, T] arrays: tokens, targets, weights, positions."""
ROWS = P(("data", "fsdp"))
"""[B] arrays."""
LOGITS = P(("data", "fsdp"), "sequence", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; their product is the number of devices. -1: as many as remain."""

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(f"mesh.{name}={size}: expected at least 1, or -1 for the rest")
        if list(sizes.values()).count(-1) > 1:
            raise UserError(f"mesh {self.describe()}: one axis at most may be -1, the rest")

    def describe(self) -> str:
        return " x ".join(f"{name}={size}" for name, size in dataclasses.asdict(self).items())

    def resolved(self, devices: int) -> "MeshConfig":
        """With -1 replaced, for so many devices.

        Raises:
          ValueError: the axes do not multiply to that number; it says which sizes would.
        """
        sizes = dataclasses.asdict(self)
        given = math.prod(size for size in sizes.values() if size > 0)
        free = [name for name, size in sizes.items() if size == -1]
        if free and devices % given == 0:
            return dataclasses.replace(self, **{free[0]: devices // given})
        if given == devices and not free:
            return self
        axis = max((name for name in sizes if name not in free), key=lambda name: sizes[name])
        others = given // sizes[axis]
        near = nearest_divisor(devices // others, sizes[axis]) if devices % others == 0 else None
        hint = f"; {axis}={near} would fit" if near and free else ""
        if not free and near:
            hint = f"; {axis}={devices // others} would fit"
        raise UserError(
            f"mesh {self.describe()} takes {'a multiple of ' if free else ''}{given} devices and "
            f"there are {devices}{hint}"
        )


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted`, the smaller one of two."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


def make_mesh(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices, or those given, laid out so that the inner axes (tensor, then
    sequence) are neighbours. Over several TPU slices the data axis goes from slice to slice.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or slices do not divide data.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dataclasses.asdict((config or MeshConfig()).resolved(len(devices)))
    shape = tuple(sizes[axis] for axis in MESH_AXIS_NAMES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if sizes["data"] % slices:
            raise UserError(
                f"mesh data={sizes['data']} does not divide over {slices} slices: the data axis "
                f"goes from slice to slice; choose data={slices} or a multiple of it"
            )
        inner = (sizes["data"] // slices, *shape[1:])
        laid = mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1, 1), devices)
    elif devices[0].platform == "tpu":
        laid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        laid = np.asarray(devices).reshape(shape)
    return Mesh(laid, MESH_AXIS_NAMES, axis_types=(AxisType.Auto,) * len(MESH_AXIS_NAMES))


def parameter_name(path: tuple[Any, ...]) -> str:
    """Slash-joined name of a leaf from its pytree path, whatever containers it goes through."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def logical_axes(name: str) -> LogicalAxes:
    """Logical axes of a parameter, from its name or path; () where it lies whole everywhere.

    A low-rank adapter of a weight [J, I] lies where that does: a [I, rank], b [rank, J].
    """
    last = "/".join(name.split("/")[-2:])
    weight, adapter, which = last.partition("_lora_")
    axes = PARAMETERS.get(weight, ())
    if not adapter:
        return axes
    return (axes[1], None) if which == "a" else (None, axes[0])


def gathered_dimension(name: str) -> int | None:
    """Which dimension of a parameter (without a leading one of stacked layers) PARAMETER_AXES
    divide."""
    axes = [MESH_AXES[axis] for axis in logical_axes(name)]
    return axes.index(PARAMETER_AXES) if PARAMETER_AXES in axes else None


def param_spec(name: str, ndim: int) -> P:
    """Where a parameter lies, or an optimizer's moment of it. Layers may be stacked in front."""
    axes = logical_axes(name)
    if ndim < len(axes):
        return P()
    return P(*[None] * (ndim - len(axes)), *[MESH_AXES[axis] for axis in axes]) if axes else P()


def specs(tree: Any) -> Any:
    """param_spec of every leaf of a pytree of parameters, or of a train state that holds such."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: param_spec(parameter_name(path), len(x.shape)), tree
    )


def shardings(mesh: Mesh, tree: Any) -> Any:
    """NamedSharding of every leaf of a pytree of parameters, or of a train state."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs(tree), is_leaf=lambda x: isinstance(x, P)
    )


def state_specs(config: GriffinConfig) -> Any:
    """Where the model's State lies: rows over batch, channels over tensor."""
    rows, tensor = MESH_AXES["batch"], MESH_AXES["channels"]
    arrays: dict[bool, Any] = {
        True: (RecurrentState, P(rows, tensor), P(rows, None, tensor)),
        False: (AttentionState, P(rows), P(rows)),
    }
    layers = []
    for block_type in config.block_types:
        make, *parts = arrays[block_type == "recurrent"]
        layers.append(make(*parts))
    position: Any = P(rows)
    return State(position, position, tuple(layers))


def check_model(config: GriffinConfig, mesh: Mapping[str, int]) -> None:
    """Raises ValueError if a mesh of these sizes (Mesh.shape) does not divide the model: which
    axis, and the nearest size that divides both the model and the number of devices."""
    sizes = {
        "vocab": config.vocab_size,
        "heads": config.num_heads,
        "mlp": config.mlp_width,
        "gate_blocks": config.num_gate_blocks,
        "width": config.width,
        "gate_inputs": config.lru_width // config.num_gate_blocks,
    }
    names = {
        "vocab": "vocab_size",
        "heads": "num_heads",
        "mlp": "mlp_width",
        "gate_blocks": "num_gate_blocks",
        "width": "width",
        "gate_inputs": "lru_width / num_gate_blocks",
    }
    if not {"attention" in kind for kind in config.block_types} & {True}:
        del sizes["heads"]
    if "recurrent" not in config.block_types:
        del sizes["gate_blocks"], sizes["gate_inputs"]
    for axes in ("tensor", PARAMETER_AXES):
        divided = (axes,) if isinstance(axes, str) else axes
        wanted = math.prod(mesh[axis] for axis in divided)
        label = " x ".join(f"{axis}={mesh[axis]}" for axis in divided if mesh[axis] > 1)
        here = {name: n for name, n in sizes.items() if MESH_AXES[name] == axes}
        for name, n in here.items():
            if n % wanted:
                near = nearest_divisor(math.gcd(*here.values(), math.prod(mesh.values())), wanted)
                of = divided[0] if " x " not in label else "their product"
                raise UserError(
                    f"mesh axis {label} does not divide the model's {names[name]}={n}; "
                    f"the nearest that divides it and the devices is {of}={near}"
                )


def check_batch(batch: int, time: int, mesh: Mapping[str, int]) -> None:
    """Raises ValueError if a mesh of these sizes (Mesh.shape) does not divide a batch: which axis,
    and the nearest batch or length that it does divide."""
    rows = mesh["data"] * mesh["fsdp"]
    if batch % rows:
        raise UserError(
            f"a batch of {batch} rows does not divide over mesh axes data={mesh['data']} x "
            f"fsdp={mesh['fsdp']}; choose a multiple of {rows}, such as "
            f"{max(1, round(batch / rows)) * rows}"
        )
    parts = mesh["sequence"]
    if time % parts:
        raise UserError(
            f"rows of {time} tokens do not divide over mesh axis sequence={parts}; choose a "
            f"multiple of it, such as {max(1, round(time / parts)) * parts}"
        )
