# SPDX-License-Identifier: Apache-2.0
"""Three ways to get the state that enters each device's part of a sequence, and why one was taken.

    python -m kernels.measure.exchange_bench        15 seconds

`doubling` is sequence.carry_in; `ring` hands the state from device to device; `gather` gives every
device the effects of all parts. Milliseconds on fake CPU devices, which share the machine's cores,
so that they count work and synchronisation and no wires; then what the TPU compiler makes of each
for 16 chips of a v5e: exchanges that wait for each other, and bytes that a device sends.
Numbers in docs/kernels.md.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels.measure.bench import draw, interleaved
from kernels.measure.command import options
from kernels.measure.tpu_compile import compile_for, library, line_of
from kernels.sequence import carry_in

WIDTH = 2560
SPEC = P(None, "sequence")  # effects of the parts beside each other: [B, n E]


def ring(a_BE: jax.Array, b_BE: jax.Array, h0_BE: jax.Array, axis: str) -> jax.Array:
    count, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    pairs = [(i, i + 1) for i in range(count - 1)]
    h_BE = h0_BE
    for step in range(1, count):
        passed_BE = jax.lax.ppermute(a_BE * h_BE + b_BE, axis, pairs)
        h_BE = jnp.where(index == step, passed_BE, h_BE)
    return h_BE


def gather(a_BE: jax.Array, b_BE: jax.Array, h0_BE: jax.Array, axis: str) -> jax.Array:
    index = jax.lax.axis_index(axis)
    a_NBE, b_NBE = (jax.lax.all_gather(x, axis) for x in (a_BE, b_BE))
    h_BE = h0_BE
    for n in range(jax.lax.axis_size(axis) - 1):
        h_BE = jnp.where(n < index, a_NBE[n] * h_BE + b_NBE[n], h_BE)
    return h_BE


WAYS: dict[str, Callable] = {"doubling": carry_in, "ring": ring, "gather": gather}


def sharded(way: Callable, mesh: Mesh) -> Callable:
    return jax.shard_map(
        functools.partial(way, axis="sequence"),
        mesh=mesh,
        in_specs=(SPEC, SPEC, P()),
        out_specs=SPEC,
        check_vma=False,
    )


def main() -> None:
    options(__doc__).parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("sequence",), axis_types=(AxisType.Auto,))
    for batch in (1, 8):
        effects = [draw(i, (batch, count * WIDTH), "float32") for i in range(2)]
        args = [jax.device_put(x, NamedSharding(mesh, SPEC)) for x in effects]
        args.append(jax.device_put(draw(2, (batch, WIDTH), "float32"), NamedSharding(mesh, P())))
        jitted = {name: jax.jit(sharded(way, mesh)) for name, way in WAYS.items()}
        runs = {  # each waits: fake devices that run two programs at once wait for each other
            name: functools.partial(lambda f, args: jax.block_until_ready(f(*args)), f, args)
            for name, f in jitted.items()
        }
        for got in [run() for run in runs.values()]:
            assert jnp.allclose(got, runs["doubling"](), rtol=1e-4, atol=1e-4)
        for name, seconds in interleaved(runs, 9, 0.1).items():
            print(f"{count} CPU devices, B = {batch}: {name} {1e3 * seconds:.3f} ms")
    if library() is None:
        return
    mesh = line_of("v5e:4x4", sequence=16)
    shapes = [jax.ShapeDtypeStruct((1, n * WIDTH), jnp.float32) for n in (16, 16, 1)]
    for name, way in WAYS.items():
        program = compile_for(
            "v5e:4x4", sharded(way, mesh), *shapes, mesh=mesh, specs=(SPEC, SPEC, P())
        )
        kinds = [kind for kind, _ in program.collectives]
        size = sum(size for _, size in program.collectives)
        print(f"16 v5e chips, B = 1: {name} {len(kinds)} of {set(kinds)}, {size:,} bytes")


if __name__ == "__main__":
    main()
