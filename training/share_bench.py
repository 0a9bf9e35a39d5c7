# SPDX-License-Identifier: Apache-2.0
"""The linear scan's share of a training step: the step, and the step without the scan's loop.

    python -m training.share_bench        3 minutes on two cores

griffin_100m, one row of 512 and of 2,048 tokens, in float32 and in bfloat16 over float32 weights.
Without its loop the scan returns x a: what is computed is wrong and as large. The two take turns;
medians. Expected: under 5%. Numbers in docs/kernels.md.
"""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.bench import interleaved
from kernels.linear_scan import xla
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.presets import griffin_100m
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step


def no_loop(x_BTE: jax.Array, a_BTE: jax.Array, h0_BE: jax.Array, reverse: bool):
    h_BTE = x_BTE * a_BTE
    return h_BTE, h0_BE + h_BTE[:, 0 if reverse else -1].astype(jnp.float32)


def main() -> None:
    keep_freed_memory()
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    print("| dtype | T | step, s | without the scan's loop | share |")
    print("|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(griffin_100m(), dtype=dtype)
        graphdef, params = nnx.split(Griffin(config, rngs=nnx.Rngs(0)), nnx.Param)
        for time in (512, 2048):
            ids = jnp.ones((1, time), jnp.int32)
            batch = Batch(ids, ids, jnp.ones(ids.shape), jnp.arange(time, dtype=jnp.int32)[None])
            state = init_train_state(params, tx)
            compiled = {}
            for name, scan in (("whole", xla.scan), ("without", no_loop)):
                jax.clear_caches()
                with mock.patch.object(xla, "scan", scan):
                    step = jax.jit(make_train_step(graphdef, tx).__wrapped__)  # donates nothing
                    compiled[name] = step.lower(state, batch).compile()
            runs = {n: functools.partial(step, state, batch) for n, step in compiled.items()}
            found = interleaved(runs, 7, 0.1)
            share = 1 - found["without"] / found["whole"]
            shown = f"{found['whole']:.3f} | {found['without']:.3f} | {100 * share:.1f}%"
            print(f"| {dtype} | {time} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
