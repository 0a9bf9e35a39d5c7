# SPDX-License-Identifier: Apache-2.0
"""What weights of int8 cost in bits per byte and change in memory and speed (docs/serving.md).

python -m serving.bench.int8 runs/demo --text docs/serving.md
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import recurrentgemma as rg
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from serving.engine.programs import Programs
from serving.engine.slots import Slots
from serving.features.int8 import held_bytes, with_int8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8BenchArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The model: a run, a checkpoint, or a name."""
    text: Path
    """What is scored."""
    dtype: str | None = None
    slots: int = 8
    steps: int = 16
    calls: int = 10
    """The fastest of so many counts."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        Int8BenchArguments, prog="python -m serving.bench.int8", description=__doc__, args=argv
    )
    lm = rg.load(arguments.path, dtype=arguments.dtype)
    models = {f"{lm.config.param_dtype}": lm, "int8": with_int8(lm)}
    text = arguments.text.read_text("utf-8")
    seconds = token_seconds(arguments, models)
    for name, model in models.items():
        print(
            f"{name:10} {bits_per_byte(model, text):8.4f} bits per byte "
            f"{held_bytes(model) / 2**20:10.1f} MiB {1000 * seconds[name]:8.2f} ms a token",
            flush=True,
        )
    return 0


def bits_per_byte(lm: LanguageModel, text: str) -> float:
    return float(-np.sum(lm.score(text), dtype=np.float64) / np.log(2) / len(text.encode()))


def token_seconds(
    arguments: Int8BenchArguments, models: dict[str, LanguageModel]
) -> dict[str, float]:
    """Of a decoded token of all slots; the models take turns."""
    full = {}
    for name, model in models.items():
        programs = Programs(model, vocab_size=model.config.vocab_size)
        full[name] = slots = Slots(programs, arguments.slots, stop_ids=(), constrained=False)
        for slot in range(arguments.slots):
            slots.put(slot, programs.empty, [slot], Sampling(max_tokens=2**30))
        slots.decode(1, scored=False)
    seconds: dict[str, list[float]] = {name: [] for name in full}
    for _ in range(arguments.calls):
        for name, slots in full.items():
            began = time.perf_counter()
            slots.decode(arguments.steps, scored=False)
            seconds[name].append((time.perf_counter() - began) / arguments.steps)
    return {name: min(times) for name, times in seconds.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
