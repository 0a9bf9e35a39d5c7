# SPDX-License-Identifier: Apache-2.0
"""How fast XLA multiplies on this machine, by form, dtype and rows: why weights lie output first.

    python -m kernels.dot_bench        15 seconds on two cores

[M, 768] times a weight of 768 x 2,304, twelve weights in turn so that none stays in a small cache:
`input first` is [M, I] [I, J], `output first` [M, I] [J, I]. GB/s counts the bytes of the weight.
The two take turns; medians. Numbers in docs/performance.md.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

FAN_IN, WIDTH, WEIGHTS = 768, 2304, 12
ROWS = (1, 2, 8, 32, 128, 1024)


def product(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The product that sums over this axis of the weight, in float32."""

    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = (((1,), (axis,)), ((), ()))
        return jax.lax.dot_general(x, w, axes, preferred_element_type=jnp.float32)

    return jax.jit(run)


def seconds(rows: int, dtype: str) -> tuple[float, float]:
    """Of one product, input first and output first."""
    x = jax.random.normal(jax.random.key(0), (rows, FAN_IN), jnp.dtype(dtype))
    keys = jax.random.split(jax.random.key(1), WEIGHTS)
    first = [jax.random.normal(key, (FAN_IN, WIDTH), x.dtype) for key in keys]
    forms = [(product(0), first), (product(1), [w.T.copy() for w in first])]
    times: list[list[float]] = [[], []]
    for _ in range(10):
        for (run, weights), taken in zip(forms, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready([run(x, w) for w in weights])
            taken.append((time.perf_counter() - start) / WEIGHTS)
    input_first, output_first = (statistics.median(taken[1:]) for taken in times)
    return input_first, output_first


def main() -> None:
    print("| dtype | rows | input first, GB/s | output first, GB/s | GFLOP/s | |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        size = FAN_IN * WIDTH * jnp.dtype(dtype).itemsize / 1e9
        for rows in ROWS:
            a, b = seconds(rows, dtype)
            work = 2 * rows * FAN_IN * WIDTH / 1e9
            print(
                f"| {dtype} | {rows} | {size / a:.1f} | {size / b:.1f} "
                f"| {work / a:.0f} / {work / b:.0f} | {a / b:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
