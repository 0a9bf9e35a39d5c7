# SPDX-License-Identifier: Apache-2.0
"""`remat="auto"`: the policy with the least recomputation that fits, chosen before the first step.

What is held, what the policy keeps, and what a step takes for a while (costs.py) are estimated, in
nine tenths of the device's memory. On a TPU the estimate is where to begin: the step is compiled
with that policy and with its neighbours, as `griffin plan` does, and of those that fit the one with
the fewest matrix products is taken (where memory is short, the compiler itself repeats some). The
answer hangs on the configuration, the mesh and the devices' size, and all processes of a run take
the most careful one among them.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import parameter_count
from recurrentgemma.remat import POLICIES
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.planning.costs import kept_bytes, step_bytes

SHARE = 0.9  # of a device's memory that an estimate may fill
ONE_DEVICE = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


class Products(NamedTuple):
    """FLOPs of a compiled step's matrix products, infinite where it does not fit, and of those of
    them that the compiler repeats."""

    flops: float
    repeated: float


def fitting(
    config: GriffinConfig,
    *,
    rows: int,
    sequence: int,
    parts: int = 1,
    trained: float | None = None,
    beside: float = 0.0,
    mesh: Mesh | None = None,
) -> GriffinConfig:
    """The config with a policy in the place of `auto`; any other is left as it is.

    Args:
      rows: of the batch that goes through the model at a time, on all devices together.
      sequence: tokens in a row.
      parts: how many times so many rows a step takes, whose gradients are added.
      trained: how many parameters are, if not all are; each has a gradient and two moments.
      beside: bytes of what is held besides, on all devices together, such as a reference model.
      mesh: the devices; None: the first one alone.
    """
    if config.remat != "auto":
        return config
    devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
    sizes = ONE_DEVICE if mesh is None else dict(mesh.shape)
    parameters, shards = parameter_count(config), len(devices) // sizes["data"]
    trained = parameters if trained is None else trained
    stored = parameters * (2 if config.param_dtype == "bfloat16" else 4)
    gradients = 2 if parts > 1 else 1  # one part's, and their sum
    resident = (stored + (8 + 4 * gradients) * trained + beside) / shards
    tokens = rows * sequence / len(devices) * sizes["tensor"]
    limit = SHARE * memory_limit(devices)
    platform = devices[0].platform
    choice = 0
    for index in reversed(range(len(POLICIES))):
        kept = tokens * kept_bytes(config, sequence, POLICIES[index], sizes["tensor"])
        step = step_bytes(config, tokens, sizes, platform)
        if resident + kept + step <= limit:
            choice = index
            break
    if platform == "tpu":
        laid = make_mesh(MeshConfig(data=1), devices) if mesh is None else mesh
        limit = memory_limit(list(laid.devices.flat)) - beside / shards
        choice = compiled_choice(
            choice, lambda remat: _products(config, remat, laid, rows, sequence, parts, limit)
        )
    if jax.process_count() > 1:
        choice = int(np.min(multihost_utils.process_allgather(np.asarray(choice))))
    return dataclasses.replace(config, remat=POLICIES[choice])


def compiled_choice(first: int, compile_one: Callable[[Any], Products]) -> int:
    """The index of the policy with the fewest products, of equals of the one that keeps most: down
    from this one to one that fits, then up or down as long as there are fewer. 0 if none fits: then
    the step itself says what is lacking."""
    tried = functools.cache(lambda index: compile_one(POLICIES[index]))
    here = first
    while here > 0 and math.isinf(tried(here).flops):
        here -= 1
    while (
        here + 1 < len(POLICIES)
        and math.isfinite(tried(here + 1).flops)
        and tried(here + 1).flops <= tried(here).flops
    ):
        here += 1
    while here > 0 and tried(here).repeated and tried(here - 1).flops < tried(here).flops:
        here -= 1
    return here


def _products(
    config: GriffinConfig,
    remat: Any,
    mesh: Mesh,
    rows: int,
    sequence: int,
    parts: int,
    limit: float,
) -> Products:
    from training.planning import hlo, products  # only where a TPU is
    from training.planning.plan import compile_step, lower_step, program_bytes

    chosen = dataclasses.replace(config, remat=remat)
    compiled = compile_step(lower_step(chosen, mesh, rows * parts, sequence, parts)[1])
    if compiled.memory is None or program_bytes(compiled.memory) > limit:
        return Products(math.inf, 0.0)
    return Products(*products.flops(hlo.parse(compiled.text)))


def memory_limit(devices: Sequence[Any]) -> float:
    """Bytes that the smallest of this process's devices may take: what it says itself, else, as of
    a CPU, its part of the machine's memory or of the control group's."""
    here = [device for device in devices if device.process_index == jax.process_index()]
    stats = [device.memory_stats() for device in here]
    limits = [float(known["bytes_limit"]) for known in stats if known and "bytes_limit" in known]
    if limits:
        return min(limits)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = CONTROL_GROUP.read_text().strip() if CONTROL_GROUP.exists() else "max"
    allowed = machine if group == "max" else min(machine, int(group))
    return allowed / max(1, len(here))
