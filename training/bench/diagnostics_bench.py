# SPDX-License-Identifier: Apache-2.0
"""What `--diagnostics-every` costs beside the training step.

    python -m training.bench.diagnostics_bench [--preset demo] [--rounds 7]      a minute and a half

The step with and without update ratios, and the panel, in turn, on batches that lie there already;
medians. Numbers in docs/diagnostics.md.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from eval.diagnostics.panel import update_ratios
from kernels.measure.command import options
from recurrentgemma.griffin import Griffin
from recurrentgemma.memory import keep_freed_memory
from training.data.batches import Batches
from training.data.documents import InMemory, Mixture
from training.diagnostics import Diagnostics, fixed_batch
from training.named_runs import run_named
from training.optim import make_optimizer
from training.step import OBSERVED, init_train_state, make_train_step


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    config = dataclasses.replace(run_named(arguments.preset), diagnostics_every=1)
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, 100_000, np.int32)
    mixture = Mixture((InMemory([ids]),), (1.0,))
    rows, length = config.batch_size, config.sequence_length
    batch = jax.device_put(next(Batches(mixture, batch_size=rows, row_length=length, seed=0)))
    graphdef, params = nnx.split(Griffin(config.model, rngs=nnx.Rngs(0)), nnx.Param)
    tx = make_optimizer(config.optimizer, steps=config.steps)
    diagnostics = Diagnostics(config, graphdef, mixture, None)
    state, ratios = init_train_state(params, tx), {}
    seconds: dict[str, list[float]] = {"step": [], "step with update ratios": [], "panel": []}
    plain = make_train_step(graphdef, tx)
    observed = make_train_step(graphdef, tx, observe=update_ratios)
    for _ in range(arguments.rounds + 1):
        state, metrics = _timed(seconds["step"], lambda s=state: plain(s, batch))
        state, metrics = _timed(
            seconds["step with update ratios"], lambda s=state: observed(s, batch)
        )
        ratios = metrics.pop(OBSERVED)
        _timed(seconds["panel"], lambda s=state, r=ratios: diagnostics(s.params, (), r))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    tokens = fixed_batch(config, mixture, None).tokens_BT.shape
    print(
        f"{arguments.preset}: step {1e3 * medians['step']:.0f} ms of {config.batch_size} x "
        f"{config.sequence_length} tokens, with update ratios "
        f"{1e3 * medians['step with update ratios']:.0f} ms; panel of {tokens[0]} x {tokens[1]} "
        f"tokens {1e3 * medians['panel']:.0f} ms, {medians['panel'] / medians['step']:.1f} steps"
    )


def _timed(seconds: list[float], run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
    return result


if __name__ == "__main__":
    main()
