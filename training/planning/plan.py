# SPDX-License-Identifier: Apache-2.0
"""What a training step takes on a TPU slice that is not here: the real step, compiled by the real
compiler (kernels/measure/tpu_compile.py), and read.

Memory, collectives and HBM traffic are those of the compiled program, loops counted as often as
they run (hlo.py). FLOPs are counted by formula (costs.py), because the compiler does not look into
kernels; the program's own matrix products must agree with it, and every other figure must be above
its floor (floors.py). From these a roofline: the time that each of arithmetic, memory and
interconnect would take alone; the longest of them bounds the step from below, and with it the MFU
from above.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from kernels import platform
from kernels.measure import tpu_compile
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.sharding import MeshConfig
from training.observe.chips import CHIPS, Chip
from training.optim import OptimConfig, make_optimizer
from training.planning import floors, hlo, products
from training.planning.costs import training_flops
from training.step import TrainState, init_train_state, make_train_step

KINDS = ("activations", "temporaries", "program")  # of memory, beside what is held


class Compiled(NamedTuple):
    """A compiled step, or why there is none: the bytes that it would have taken."""

    text: str
    memory: Any
    needed: float | None = None


def chip_of(topology: str) -> Chip:
    """Raises ValueError: the topology names no chip that is known, or no slice of it."""
    name, _, extents = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", extents):
        raise UserError(
            f"topology {topology!r}: expected CHIP:AxB or CHIP:AxBxC with a chip of "
            f"{', '.join(CHIPS)}, such as v5e:16x16 or v5p:4x4x4"
        )
    pod, asked = CHIPS[name].pod, sorted(map(int, extents.split("x")))
    if len(asked) != len(pod) or any(a > most for a, most in zip(asked, pod, strict=True)):
        raise UserError(
            f"topology {topology!r}: slices of {name} have {len(pod)} dimensions and at most "
            f"{'x'.join(map(str, pod))} chips"
        )
    return CHIPS[name]


def plan_step(
    config: GriffinConfig,
    topology: str,
    *,
    batch: int,
    sequence: int,
    mesh: MeshConfig,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The plan of a training step with AdamW: `batch` rows of `sequence` tokens over the slice.

    Returns: see assess; flops: those of the model, those of each device with what it recomputes,
    and of the latter the matrix products outside of kernels.

    Raises:
      PlanError: the program is not what the formulas say, which is a bug.
      ValueError: the topology is unknown, or the mesh does not divide it, the model or the batch.
      FileNotFoundError: there is no TPU compiler here.
    """
    laid = lay(topology, mesh)
    sharding.check_model(config, laid.shape)
    sharding.check_batch(batch, sequence, laid.shape)
    report(f"compiling {describe(laid)}, remat {config.remat}, for {topology}")
    state, lowered = lower_step(config, laid, batch, sequence)
    resident = {"parameters": held_bytes(state.params), "optimizer": held_bytes(state.opt_state)}
    rows = batch // (laid.shape["data"] * laid.shape["fsdp"])
    kept = (rows, sequence // laid.shape["sequence"])
    flops = training_flops(config, batch, sequence, laid.shape)
    sent = floors.exchange_floor(state.params, laid.shape, config.dtype)
    plan = assess(topology, laid, lowered, resident, flops, batch * sequence, kept, sent)
    return {"batch": batch, "sequence": sequence, "remat": config.remat, **plan}


def lay(topology: str, mesh: MeshConfig) -> Mesh:
    """The mesh on the devices of a topology. Raises ValueError and FileNotFoundError as plan."""
    chip_of(topology)
    devices = _devices(topology)
    return sharding.make_mesh(mesh.resolved(len(devices)), devices)


def describe(mesh: Mesh) -> str:
    """The axes of more than one device, such as `fsdp=16 x tensor=2`."""
    return " x ".join(f"{axis}={n}" for axis, n in mesh.shape.items() if n > 1) or "one device"


def assess(
    topology: str,
    mesh: Mesh,
    lowered: jax.stages.Lowered,
    resident: dict[str, float],
    flops: dict[str, float],
    tokens: int,
    kept: tuple[int, int] | None,
    sent: float = 0.0,
) -> dict[str, Any]:
    """Compile a program and say what it takes.

    Args:
      resident: bytes that a device holds of its arguments, by kind; it reads all of them.
      flops: of the model ("model"), of each device ("per_device"), and of the latter all matrix
        products outside of kernels ("products"; without them: of which few rows leave some).
      tokens: that the program advances by.
      kept: rows and tokens of the activations that the layers' loop keeps; None: it keeps none.
      sent: bytes that a device must send over the axes that divide parameters.

    Returns: fits; bytes_per_device by kind (None: see _memory), total and limit; flops;
    collectives by kind and mesh axes (times, bytes that a device sends, seconds); seconds by what
    they are spent on; step_seconds, tokens_per_second, mfu_bound and hfu_bound, which counts what
    is recomputed, too (None where it does not fit); mesh; topology.

    Raises PlanError: see floors.py.
    """
    chip = chip_of(topology)
    compiled = compile_step(lowered)
    needed, memory = _memory(resident, compiled, kept)
    plan: dict[str, Any] = {
        "topology": topology,
        "mesh": dict(mesh.shape),
        "fits": compiled.memory is not None and needed <= chip.hbm,
        "bytes_per_device": {**memory, "total": needed, "limit": chip.hbm},
        "flops": flops,
        "collectives": {},
        "seconds": {},
        "step_seconds": None,
        "tokens_per_second": None,
        "mfu_bound": None,
        "hfu_bound": None,
    }
    if compiled.memory is None:
        return plan
    module = hlo.parse(compiled.text)
    plan["collectives"] = _collectives(module, mesh, chip)
    traffic = hlo.hbm_traffic(module)
    counted, repeated = products.flops(module)
    floors.check_products(counted, repeated, flops)
    if repeated:
        excess = max(0.0, counted - flops["products"])
        plan["flops"] = flops = {**flops, "per_device": flops["per_device"] + excess}
    floors.check_floor("HBM traffic", traffic, sum(resident.values()))
    floors.check_floor("bytes sent", floors.sent_over_parameters(plan["collectives"]), sent)
    plan["seconds"] = {
        "arithmetic": flops["per_device"] / chip.flops,
        "memory": traffic / chip.bandwidth,
        "interconnect": sum(kind["seconds"] for kind in plan["collectives"].values()),
    }
    if plan["fits"]:
        bound = max(plan["seconds"].values())
        plan["step_seconds"] = bound
        plan["tokens_per_second"] = tokens / bound
        plan["mfu_bound"] = flops["model"] / (bound * chip.flops * mesh.size)
        plan["hfu_bound"] = flops["per_device"] / (bound * chip.flops)
    return plan


def topology_size(topology: str) -> int:
    """How many chips a topology has. Raises ValueError and FileNotFoundError as plan."""
    chip_of(topology)
    return len(_devices(topology))


def _devices(topology: str) -> list:
    try:
        return tpu_compile.devices(topology)
    except FileNotFoundError:
        raise
    except Exception as error:  # the TPU library's own, of any kind
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"topology {topology!r}: the TPU compiler refuses it: {first}; there are slices such "
            f"as v5e:4x4, v5p:4x4x4 and v6e:16x16"
        ) from error


def abstract_state(config: GriffinConfig, mesh: Mesh) -> tuple[Any, Any, TrainState]:
    """(graphdef, optimizer, shapes of the train state where it lies): nothing is allocated."""
    tx = make_optimizer(OptimConfig(warmup_steps=1), steps=1000)
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    state = jax.eval_shape(lambda params: init_train_state(params, tx), params)
    placed = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state,
        sharding.shardings(mesh, state),
    )
    return graphdef, tx, placed


def lower_step(
    config: GriffinConfig,
    mesh: Mesh,
    batch: int,
    sequence: int,
    parts: int = 1,
    platform_name: str = "tpu",
) -> tuple[TrainState, jax.stages.Lowered]:
    """(shapes of the train state, the training step for a TPU, not compiled yet). parts: in which
    the batch goes through the model (grad_accumulation_steps). platform_name: that of the mesh's
    devices."""
    graphdef, tx, state = abstract_state(config, mesh)
    where = NamedSharding(mesh, sharding.BATCH)
    ids: Any = jax.ShapeDtypeStruct((batch, sequence), jnp.int32, sharding=where)
    weights: Any = jax.ShapeDtypeStruct((batch, sequence), jnp.float32, sharding=where)
    rows = Batch(ids, ids, weights, ids)
    with platform.lowering_for(platform_name):
        step: Any = make_train_step(graphdef, tx, mesh=mesh, grad_accumulation_steps=parts)
        return state, step.lower(state, rows)


def compile_step(lowered: jax.stages.Lowered) -> Compiled:
    try:
        with tpu_compile.uncached():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory(str(error))
        if needed is None:
            raise
        return Compiled("", None, needed)
    return Compiled(compiled.as_text() or "", compiled.memory_analysis())


def out_of_memory(message: str) -> float | None:
    """Bytes of HBM that a program would have taken, from the compiler's error; None if it is
    another one."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern in (
        r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm",
        r"\(([\d.]+)([KMGT]?)\) exceeds",
    ):
        if size := re.search(pattern, message):
            return float(size[1]) * units[size[2]]
    return None


def _memory(
    resident: dict[str, float], compiled: Compiled, kept: tuple[int, int] | None
) -> tuple[float, dict[str, float | None]]:
    """Bytes of HBM a device, and by kind. None: not known, because the program does not fit;
    activations of None are among the temporaries, because no loop keeps them."""
    if compiled.memory is None:
        return compiled.needed or 0.0, {**resident, **dict.fromkeys(KINDS)}
    memory = compiled.memory
    activations = 0.0
    if kept is not None:
        activations = kept_activations(hlo.parse(compiled.text), *kept) or None
    needed, program = program_bytes(memory), memory.generated_code_size_in_bytes
    temporaries = needed - program - (activations or 0.0) - sum(resident.values())
    sizes = {"activations": activations, "temporaries": temporaries, "program": float(program)}
    return float(needed), {**resident, **sizes}


def program_bytes(memory: Any) -> int:
    """Bytes of a TPU that a program takes at its peak, arguments and code among it.

    The sum of a Compiled.memory_analysis' arguments, results and temporaries is more: the TPU
    compiler's temporaries have what is never held at the same time. What it refuses a program for
    is its peak (docs/training.md)."""
    return memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes


def held_bytes(tree: Any) -> float:
    """Bytes that one device holds of arrays with shardings."""
    return float(
        sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in jax.tree.leaves(tree)
        )
    )


def kept_activations(module: hlo.Module, rows: int, time: int) -> float:
    """Bytes that the layers' loop keeps for the backward pass: stacked arrays of rows x time."""
    most = 0
    for name in hlo.runs(module):
        for instruction in module.computations[name].values():
            if instruction.op != "while":
                continue
            count = hlo.trip_count(module, instruction)
            kept = 0
            for dtype, shape, layout in hlo.ARRAY.findall(instruction.type):
                sizes = [int(n) for n in shape.split(",") if n]
                if "S(" not in layout and sizes[:1] == [count] and sizes[1:3] == [rows, time]:
                    kept += math.prod(sizes) * hlo.BITS.get(dtype, 32) // 8
            most = max(most, kept)
    return float(most)


def _collectives(module: hlo.Module, mesh: Mesh, chip: Chip) -> dict[str, dict[str, float]]:
    """By kind and mesh axes: how often, bytes that a device sends, seconds that they take."""
    chips = np.asarray([device.coords for device in mesh.devices.flat])
    extents = chips.max(0) + 1
    names = np.stack(np.unravel_index(np.arange(mesh.devices.size), mesh.devices.shape), 1)
    exchanges: dict[str, dict[str, float]] = {}
    for collective in hlo.collectives(module):
        group = list(collective.group)
        varies = (names[group] != names[group[0]]).any(0)
        axes = ",".join(np.asarray(mesh.axis_names)[varies]) or "none"
        wires = 0.0
        for dimension in range(chips.shape[1]):
            spread = len(set(chips[group][:, dimension].tolist()))
            if spread > 1:
                rings = spread == extents[dimension] and spread % chip.ring == 0
                wires += 2.0 if rings else 1.0
        entry = exchanges.setdefault(
            f"{collective.kind} over {axes}", {"times": 0, "bytes": 0.0, "seconds": 0.0}
        )
        entry["times"] += collective.times
        entry["bytes"] += collective.times * collective.sent
        entry["seconds"] += collective.times * collective.sent / (max(wires, 1.0) * chip.link)
    return exchanges
