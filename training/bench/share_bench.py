# SPDX-License-Identifier: Apache-2.0
"""The linear scan's share of a training step of griffin_100m.

    python -m training.bench.share_bench [TOKENS...]        8 minutes on two slow cores

One row of 512 and of 2,048 tokens, in float32 and in bfloat16 over float32 weights. The step and
the scans of one recurrent layer (forward, and the reversed one of the backward pass) take turns;
the share is the median of the latter times the number of recurrent layers. (Timing the step with
and without its scans tells nothing: two steps differ by more than that.) Expected: under 5%.
Numbers in docs/kernels.md.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.linear_scan import linear_scan
from kernels.measure.bench import interleaved
from kernels.measure.command import options
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.presets import griffin_100m
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step


def training_step(config, tokens: int) -> Callable[[], jax.Array]:
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    graphdef, params = nnx.split(Griffin(config, rngs=nnx.Rngs(0)), nnx.Param)
    ids = jnp.ones((1, tokens), jnp.int32)
    batch = Batch(ids, ids, jnp.ones(ids.shape), jnp.arange(tokens, dtype=jnp.int32)[None])
    state = init_train_state(params, tx)
    train_step = make_train_step(graphdef, tx)

    def step() -> jax.Array:
        nonlocal state
        state, metrics = train_step(state, batch)
        return metrics["loss"]

    return step


def layer_scans(config, tokens: int) -> Callable[[], list[jax.Array]]:
    x_BTE = jnp.ones((1, tokens, config.lru_width), jnp.float32)
    a_BTE = 0.9 * x_BTE

    @jax.jit
    def scans(x_BTE, a_BTE):
        return [linear_scan(x_BTE, a_BTE, reverse=reverse)[0] for reverse in (False, True)]

    return lambda: scans(x_BTE, a_BTE)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("tokens", nargs="*", type=int, default=[512, 2048])
    arguments = parser.parse_args()
    keep_freed_memory()
    print("| dtype | T | step, s | scans of a layer, ms | recurrent layers | share |")
    print("|---|---|---|---|---|---|")
    for tokens in arguments.tokens:
        for dtype in ("float32", "bfloat16"):
            config = dataclasses.replace(griffin_100m(), dtype=dtype)
            runs = {"step": training_step(config, tokens), "scans": layer_scans(config, tokens)}
            seconds = interleaved(runs, 5, 0.1)
            layers = config.block_types.count("recurrent")
            share = layers * seconds["scans"] / seconds["step"]
            shown = f"{seconds['step']:.2f} | {1000 * seconds['scans']:.2f} | {layers}"
            print(f"| {dtype} | {tokens} | {shown} | {100 * share:.1f}% |", flush=True)


if __name__ == "__main__":
    main()
