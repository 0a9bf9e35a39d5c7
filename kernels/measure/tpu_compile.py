# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler makes of a function, on a machine without a TPU.

libtpu holds the compiler; `make venv` puts it into .venv/libtpu, where nothing imports it by
accident (TPU_LIBRARY_PATH names another one). kernels/measure/tpu_report.py prints what it says of
every kernel.
"""

import contextlib
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from kernels import platform

ENVIRONMENT = {  # what libtpu would ask a TPU host's metadata server, or complain about
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile: none has a TPU
}
BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]\{([\d,]*)(?::T\((\d+),(\d+)\))?[^}]*\}")


class Kernel(NamedTuple):
    """A Mosaic kernel of a compiled program."""

    name: str
    on_chip: int  # bytes of on-chip memory that it reserves
    moved: int  # bytes of its operands and results, tiles and their padding included


class Program(NamedTuple):
    """A program as the TPU compiler leaves it."""

    text: str
    kernels: tuple[Kernel, ...]
    temporary: int  # bytes of HBM beside arguments and results, per device
    collectives: tuple[tuple[str, int], ...]  # (kind, bytes of its result)


def library() -> Path | None:
    """Where libtpu is, or None."""
    given = os.environ.get("TPU_LIBRARY_PATH")
    path = Path(given) if given else Path(sys.prefix) / "libtpu" / "libtpu" / "libtpu.so"
    return path if path.exists() else None


@functools.cache
def devices(topology: str) -> list:
    """The devices of a topology such as `v5e:2x2`. Raises FileNotFoundError without libtpu."""
    path = library()
    if path is None:
        raise FileNotFoundError(
            "libtpu is neither in this environment (`make venv` puts it there) nor where "
            "TPU_LIBRARY_PATH says"
        )
    os.environ["TPU_LIBRARY_PATH"] = str(path)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without JAX's cache of compiled programs: it writes one for a device that is not here, and
    cannot read it back."""
    before = jax.config.values["jax_enable_compilation_cache"]
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(before)


def _use_cache(use: bool) -> None:
    """JAX asks whether to use it once, when it compiles for the first time, and then no more."""
    jax.config.update("jax_enable_compilation_cache", use)
    compilation_cache.reset_cache()


def compile_for(
    topology: str,
    function: Callable,
    *shapes: jax.ShapeDtypeStruct,
    mesh: Mesh | None = None,
    specs: tuple[P, ...] = (),
) -> Program:
    """The program of function(*shapes), on the first device, or sharded by `specs` over `mesh`."""
    if mesh is None:
        sharding = [SingleDeviceSharding(devices(topology)[0])] * len(shapes)
    else:
        sharding = [NamedSharding(mesh, spec) for spec in specs]
    placed = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
        for x, s in zip(shapes, sharding, strict=True)
    ]
    with platform.lowering_for("tpu"), uncached():
        compiled = jax.jit(function).lower(*placed).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    text = compiled.as_text()
    assert text is not None
    return Program(
        text, tuple(_kernels(text)), memory.temp_size_in_bytes, tuple(_collectives(text))
    )


def line_of(topology: str, **axes: int) -> Mesh:
    """A mesh of the topology's devices with these axes."""
    count = math.prod(axes.values())
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        devices=devices(topology)[:count],
        axis_types=(AxisType.Auto,) * len(axes),
    )


def array_bytes(text: str) -> int:
    """Bytes of the arrays in an HLO type, with what tiling pads."""
    size = 0
    for dtype, shape, order, rows, lanes in ARRAY.findall(text):
        sizes = [int(n) for n in shape.split(",") if n]
        if rows and len(sizes) >= 2:
            minor, second = (int(n) for n in order.split(",")[:2])
            sizes[minor] = -(-sizes[minor] // int(lanes)) * int(lanes)
            sizes[second] = -(-sizes[second] // int(rows)) * int(rows)
        size += math.prod(sizes) * BITS.get(dtype, 32) // 8
    return size


def _kernels(text: str):
    for instruction in re.split(r"\n(?=\s*(?:ROOT )?%)", text):  # a kernel's goes over many lines
        if 'custom_call_target="tpu_custom_call"' not in instruction:
            continue
        call = re.search(r" = (.*?) custom-call\((.*?)\),", instruction)
        name = re.search(r'op_name="[^"]*?(\w+)\)*/pallas_call"', instruction)
        scoped = re.search(r'"used_scoped_memory_configs":\[\{[^}]*"size":"(\d+)"', instruction)
        assert call
        assert name
        assert scoped
        operands = 0
        for operand in dict.fromkeys(re.findall(r"%[\w.\-]+", call[2])):
            result = re.search(rf"^\s*(?:ROOT )?{re.escape(operand)} = (\(.*?\)|\S+) ", text, re.M)
            operands += array_bytes(result[1]) if result else 0
        yield Kernel(name[1], int(scoped[1]), array_bytes(call[1]) + operands)


def _collectives(text: str):
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for match in re.finditer(rf" = (\(.*?\)|\S+) ({kinds})(?:-start)?\(", text):
        yield match[2], array_bytes(match[1])
