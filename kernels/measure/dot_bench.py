# SPDX-License-Identifier: Apache-2.0
"""How fast XLA multiplies on this machine, by form, dtype and rows: why kernels/dot.py is as it is.

    python -m kernels.measure.dot_bench        25 seconds on two cores

[M, 768] times a weight of 768 x 2,304, twelve weights in turn so that none stays in a small cache:
`input first` is [M, I] [I, J], `output first` [M, I] [J, I], `turned` (the transpose of) [J, I]
[M, I]. GB/s counts the bytes of the weight. The three take turns; medians. Numbers in
docs/performance.md.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kernels.dot import second_first
from kernels.measure.command import options

FAN_IN, WIDTH, WEIGHTS = 768, 2304, 12
ROWS = (1, 2, 8, 32, 64, 128, 1024)


def product(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The product that sums over this axis of the weight, in float32."""

    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = (((1,), (axis,)), ((), ()))
        return jax.lax.dot_general(x, w, axes, preferred_element_type=jnp.float32)

    return jax.jit(run)


def seconds(rows: int, dtype: str) -> list[float]:
    """Of one product, by form."""
    x = jax.random.normal(jax.random.key(0), (rows, FAN_IN), jnp.dtype(dtype))
    keys = jax.random.split(jax.random.key(1), WEIGHTS)
    input_first = [jax.random.normal(key, (FAN_IN, WIDTH), x.dtype) for key in keys]
    output_first = [w.T.copy() for w in input_first]
    forms = [(product(0), input_first), (product(1), output_first), (turned, output_first)]
    if rows == 1 and dtype == "bfloat16":
        forms.pop()  # XLA cannot run it
    times: list[list[float]] = [[] for _ in forms]
    for _ in range(10):
        for (run, weights), taken in zip(forms, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready([run(x, w) for w in weights])
            taken.append((time.perf_counter() - start) / WEIGHTS)
    return [statistics.median(taken[1:]) for taken in times]


turned = jax.jit(second_first)


def main() -> None:
    options(__doc__).parse_args()
    print("| dtype | rows | input first, GB/s (GFLOP/s) | output first | turned |")
    print("|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        size = FAN_IN * WIDTH * jnp.dtype(dtype).itemsize / 1e9
        for rows in ROWS:
            work = 2 * rows * FAN_IN * WIDTH / 1e9
            shown = [f"{size / s:.1f} ({work / s:.0f})" for s in seconds(rows, dtype)]
            shown += ["-"] * (3 - len(shown))
            print(f"| {dtype} | {rows} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
