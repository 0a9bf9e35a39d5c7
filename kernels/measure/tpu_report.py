# SPDX-License-Identifier: Apache-2.0
"""The TPU kernels as the TPU compiler sees them, as the tables of docs/kernels.md.

    TPU_SKIP_MDS_QUERY=1 python -m kernels.measure.tpu_report        2 minutes; needs no TPU

On-chip memory is what the compiler reserves for a kernel. HBM bytes are those of its operands and
results as they lie in memory, tiles and padding included; the fewest possible are those of the
streams that the op must read and write.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kernels.linear_scan import linear_scan
from kernels.local_attention import local_attention
from kernels.measure.command import options
from kernels.measure.tpu_compile import Program, compile_for
from kernels.rg_lru import rg_lru

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
MODELS = {"2B": (2560, 10), "9B": (4096, 16)}  # recurrence width, heads
TIME, SIZE, WINDOW = 8192, 256, 2048
LEAST = {  # streams that each kernel must move
    "rg_lru_forward": 4,
    "rg_lru_backward": 8,
    "linear_scan": 3,
}


def shape(*sizes: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))


def both_ways(function: Callable) -> Callable:
    """Outputs and gradients of every argument."""

    def run(*args):
        out, pullback = jax.vjp(function, *args)
        return out, pullback(jax.tree.map(lambda x: 2 * x, out))

    return run


def programs(topology: str, width: int, heads: int, dtype: str) -> list[Program]:
    """The ops, forward and backward, at B = 1 and T = 8,192."""
    stream, state = shape(1, TIME, width, dtype=dtype), shape(1, width)
    q, k = shape(1, TIME, heads, SIZE, dtype=dtype), shape(1, TIME, SIZE, dtype=dtype)
    reset = jnp.zeros((1, TIME), bool)
    positions = jnp.arange(TIME, dtype=jnp.int32)[None]

    def recurrence(*args):
        return rg_lru(*args, reset_BT=reset)

    def attention(*args):
        return local_attention(*args, window=WINDOW, positions_BT=positions)

    return [
        compile_for(topology, both_ways(recurrence), stream, stream, stream, shape(width), state),
        compile_for(topology, both_ways(linear_scan), stream, stream, state),
        compile_for(topology, both_ways(attention), q, k, k),
    ]


def main() -> None:
    options(__doc__).parse_args()
    print("| chip | model | dtype | kernel | on-chip MiB | HBM MB | of the fewest |")
    print("|---|---|---|---|---|---|---|")
    for chip, topology in TOPOLOGIES.items():
        for model, (width, heads) in MODELS.items():
            for dtype in ("bfloat16", "float32"):
                stream = TIME * width * jnp.dtype(dtype).itemsize
                for program in programs(topology, width, heads, dtype):
                    for kernel in program.kernels:
                        least = LEAST.get(kernel.name)
                        ratio = f"{kernel.moved / (least * stream):.3f}" if least else ""
                        print(
                            f"| {chip} | {model} | {dtype} | {kernel.name} | "
                            f"{kernel.on_chip / 2**20:.1f} | {kernel.moved / 1e6:,.0f} | {ratio} |"
                        )


if __name__ == "__main__":
    main()
