# SPDX-License-Identifier: Apache-2.0
"""Training tokens a second of each core: our scan against an LSTM's loop.

    python -m training.recipes.memory.scan_bench [--width 64] [--rows 16]

A step is loss, gradient and SGD of a core on random sequences; cores take turns, and the median of
the rounds is printed with the ratio to the LSTM's.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.memory import keep_freed_memory
from training.recipes.rl.cores import CoreConfig, CoreKind, core_of

LENGTHS = (128, 1024)
KINDS: tuple[CoreKind, ...] = ("lstm", "gru", "hawk", "griffin")


def training_step(
    kind: CoreKind, *, width: int, rows: int, length: int, blocks: int
) -> Callable[[], None]:
    """One step, which waits for its end."""
    core = core_of(CoreConfig(kind=kind, width=width, blocks=blocks), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(core)
    x_BTD = jax.random.normal(jax.random.key(1), (rows, length, width))
    first_BT = jnp.zeros((rows, length), bool).at[:, 0].set(True)
    start = core.start(rows)

    @jax.jit
    def step(params):
        def loss(params):
            return jnp.mean(jnp.square(nnx.merge(graphdef, params)(x_BTD, start, first_BT)[0]))

        grads = jax.grad(loss)(params)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, params, grads)

    return lambda: jax.block_until_ready(step(params))


def measure(
    *, width: int, rows: int, lengths: Sequence[int] = LENGTHS, rounds: int = 5, blocks: int = 1
) -> dict[tuple[str, int], float]:
    """Tokens a second by core and length, medians of interleaved rounds."""
    rates = {}
    for length in lengths:
        steps = {
            kind: training_step(kind, width=width, rows=rows, length=length, blocks=blocks)
            for kind in KINDS
        }
        for step in steps.values():
            step()
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, step in steps.items():
                began = time.perf_counter()
                step()
                seconds[kind].append(time.perf_counter() - began)
        for kind in KINDS:
            rates[kind, length] = rows * length / float(np.median(seconds[kind]))
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=1, help="of a Hawk or Griffin")
    arguments = parser.parse_args()
    rates = measure(width=arguments.width, rows=arguments.rows, blocks=arguments.blocks)
    for (kind, length), rate in rates.items():
        print(f"{kind:8} {length:5} steps  {rate:12,.0f} tokens/s  "
              f"{rate / rates['lstm', length]:5.2f} x LSTM")  # fmt: skip


if __name__ == "__main__":
    keep_freed_memory()  # as the griffin command does
    main()
