# SPDX-License-Identifier: Apache-2.0
"""What many adapters at once cost a full batch (docs/serving.md, 3 minutes on two CPU cores).

    python -m serving.bench.adapters

Milliseconds of a decoded token of all slots: of a server without a bank of adapters, and of one
with a bank, when every slot has an adapter of its own and when none has one. Three layers of the
2B model's width with random numbers, one of each place of its pattern, and a small vocabulary:
what adapters cost beside a layer depends on its width alone, 16 of rank 16 here.
"""

import dataclasses
import sys
import time

import numpy as np
import tyro
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.adapter_bank import AdapterBank, bank_rank
from recurrentgemma.adapters import A, B, adapted_layers
from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.lora_config import LoraConfig
from serving.engine.programs import Programs
from serving.engine.slots import Slots
from serving.features.adapters import Adapters


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterBenchArguments:
    slots: int = 16
    adapters: int = 16
    rank: int = 16
    width: int = 2560
    layers: int = 3
    vocab: int = 8192
    dtype: str = "bfloat16"
    steps: int = 4
    """Tokens of one call; the fastest of `--calls` calls counts."""
    calls: int = 10


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        AdapterBenchArguments,
        prog="python -m serving.bench.adapters",
        description=__doc__,
        args=argv,
    )
    times = measure(arguments)
    for name, seconds in times.items():
        print(f"{name:32} {1000 * seconds:8.2f} ms {seconds / times['no bank']:6.2f}x", flush=True)
    return 0


def measure(arguments: AdapterBenchArguments) -> dict[str, float]:
    """Seconds of a token of all slots, by case."""
    lm = LanguageModel(rg.Griffin(_config(arguments), rngs=nnx.Rngs(0)))
    layers = adapted_layers(lm.config, LoraConfig(rank=arguments.rank))
    bank = AdapterBank(lm.model, layers, count=arguments.adapters, rank=bank_rank(arguments.rank))
    adapters, rng = Adapters(bank), np.random.default_rng(0)
    for name in map(str, range(arguments.adapters)):
        flat = {}
        for layer, (outputs, inputs) in layers.items():
            flat[f"{layer}/{A}"] = rng.normal(size=(inputs, arguments.rank)).astype(np.float32)
            flat[f"{layer}/{B}"] = rng.normal(size=(arguments.rank, outputs)).astype(np.float32)
        adapters.add(name, flat, scale=1e-3)
    own = [adapters.get(name).place for name in adapters.names]
    full = {
        "no bank": _full_slots(arguments, lm, None, []),
        "a bank, and nobody asks": _full_slots(arguments, lm, bank, []),
        f"{arguments.adapters} adapters at once": _full_slots(arguments, lm, bank, own),
    }
    seconds: dict[str, list[float]] = {name: [] for name in full}
    for _ in range(arguments.calls):  # by turns, so that whatever else runs is in all of them
        for name, slots in full.items():
            began = time.perf_counter()
            slots.decode(arguments.steps, scored=False)
            seconds[name].append((time.perf_counter() - began) / arguments.steps)
    return {name: min(times) for name, times in seconds.items()}


def _full_slots(
    arguments: AdapterBenchArguments, lm: LanguageModel, bank: AdapterBank | None, own: list[int]
) -> Slots:
    """All taken, by adapters in these places by turns, and compiled."""
    programs = Programs(lm, vocab_size=lm.config.vocab_size, bank=bank)
    slots = Slots(programs, arguments.slots, stop_ids=(), constrained=False)
    sampling = Sampling(max_tokens=2**30)
    for slot in range(arguments.slots):
        place = {"place": own[slot % len(own)]} if own else {}
        slots.put(slot, programs.empty, [slot], sampling, **place)
    slots.decode(1, scored=False)
    return slots


def _config(arguments: AdapterBenchArguments) -> GriffinConfig:
    width = arguments.width
    return dataclasses.replace(
        rg.tiny(),
        vocab_size=arguments.vocab,
        width=width,
        lru_width=width,
        mlp_width=3 * width,
        num_heads=10,
        head_dim=width // 10,
        num_gate_blocks=10,
        num_layers=arguments.layers,
        pattern=("recurrent", "recurrent", "local_attention"),
        attention_window=128,
        scan_layers=False,
        dtype=arguments.dtype,
        param_dtype=arguments.dtype,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
