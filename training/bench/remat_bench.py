# SPDX-License-Identifier: Apache-2.0
"""The step's time with each rematerialisation policy.

    python -m training.bench.remat_bench [--preset demo] [--rounds 9]      two minutes

One step of each policy in turn, `--rounds` times, so that what else the machine does meets all.
Printed: the median of the rounds, and of their ratios to `none`. Numbers in docs/performance.md.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.measure.command import options
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.remat import POLICIES
from training.configs import TrainConfig
from training.named_runs import run_named
from training.optim import make_optimizer
from training.step import init_train_state, make_train_step


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    config = run_named(arguments.preset)
    runs = {policy: stepper(config, policy) for policy in POLICIES}
    seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for _ in range(arguments.rounds):
        for policy, step in runs.items():
            began = time.perf_counter()
            step()
            seconds[policy].append(time.perf_counter() - began)
    print("| policy | ms | of `none` | quartiles |\n|---|---|---|---|")
    for policy, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["none"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = 1000 * statistics.median(times)
        print(f"| `{policy}` | {median:,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |")


def stepper(config: TrainConfig, policy: str):
    """A compiled step that has run once, and runs again when it is called."""
    model = dataclasses.replace(config.model, remat=policy)
    graphdef, params = nnx.split(Griffin(model, rngs=nnx.Rngs(0)), nnx.Param)
    tx = make_optimizer(config.optimizer, steps=config.steps)
    state, step = init_train_state(params, tx), make_train_step(graphdef, tx)
    shape = (config.batch_size, config.sequence_length)
    tokens_BT = jax.random.randint(jax.random.key(0), shape, 0, model.vocab_size, jnp.int32)
    positions_BT = jnp.tile(jnp.arange(shape[1], dtype=jnp.int32), (shape[0], 1))
    batch = Batch(tokens_BT, tokens_BT, jnp.ones(shape), positions_BT)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    run()
    return run


if __name__ == "__main__":
    main()
