# SPDX-License-Identifier: Apache-2.0
"""Seconds that the gradient of the loss takes to compile, by depth.

    python -m training.bench.compile_bench        70 seconds on two cores

`tiny` at 1 x 128 tokens, its layers scanned or unrolled. Expected: scanned, 26 layers take at most
1.5 times as long as 8. CPU seconds of the whole process stand beside those of the clock, because
other work on the machine lengthens the latter. Numbers in docs/performance.md.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.measure.command import options
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.presets import tiny
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step


def compile_seconds(num_layers: int, scan_layers: bool) -> tuple[float, float, int]:
    """(seconds, CPU seconds, fusions) of compiling one training step."""
    config = dataclasses.replace(tiny(), num_layers=num_layers, scan_layers=scan_layers)
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    train_state = jax.eval_shape(lambda params: init_train_state(params, tx), params)
    ids = jnp.zeros((1, 128), jnp.int32)
    batch = Batch(ids, ids, jnp.ones(ids.shape), ids)
    lowered = make_train_step(graphdef, tx).lower(train_state, batch)
    start, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start, time.process_time() - cpu
    text = compiled.as_text()
    assert text is not None
    return *seconds, text.count(" fusion(")


def main() -> None:
    options(__doc__).parse_args()
    print("| layers | | seconds | CPU seconds | fusions |")
    print("|---|---|---|---|---|")
    for scan_layers in (True, False):
        for num_layers in (1, 3, 8, 26) if not scan_layers else (8, 26):
            seconds, cpu, fusions = compile_seconds(num_layers, scan_layers)
            how = "scanned" if scan_layers else "unrolled"
            print(f"| {num_layers} | {how} | {seconds:.1f} | {cpu:.1f} | {fusions} |", flush=True)


if __name__ == "__main__":
    main()
