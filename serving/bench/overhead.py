# SPDX-License-Identifier: Apache-2.0
"""What HTTP and scheduling cost over the bare decode step, at full batch (docs/serving.md).

    python -m serving.bench.overhead runs/demo --slots 32 --dtype float32

Tokens/s of the decode program alone, of the engine without HTTP, and of a server with a client for
each slot, all of one model. They take turns, so that whatever else runs slows them alike.
"""

import asyncio
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from recurrentgemma.generation.lm import LanguageModel

PROMPT = 16  # tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverheadArguments:
    path: Annotated[str, tyro.conf.Positional]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    slots: int = 32
    """Sequences that are decoded together."""
    tokens: int = 512
    """Of each answer."""
    rounds: int = 5
    """In which they take turns."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        OverheadArguments, prog="python -m serving.bench.overhead", description=__doc__, args=argv
    )
    rates = measure(arguments)
    bare = statistics.median(rates["decode step"])
    for name, values in rates.items():
        ratios = [b / v - 1 for b, v in zip(rates["decode step"], values, strict=True)]
        cost = statistics.median(ratios)
        median = statistics.median(values)
        print(
            f"{name:12} {median:10,.0f} tokens/s  {1000 / median * arguments.slots:8.3f} ms/step  "
            f"{cost:+7.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})"
        )
    assert bare > 0
    return 0


def measure(arguments: OverheadArguments) -> dict[str, list[float]]:
    """Tokens/s in each round."""
    import recurrentgemma as rg
    from serving.bench.served import served

    lm = rg.load(arguments.path, dtype=arguments.dtype)
    options = ["--slots", str(arguments.slots)]
    options += ["--dtype", arguments.dtype] if arguments.dtype else []
    with served(arguments.path, options) as server:
        measures: dict[str, Callable[[], float]] = {
            "decode step": decode_step(lm, arguments.slots, arguments.tokens),
            "engine": engine(lm, arguments.slots, arguments.tokens),
            "server": lambda: server_rate(server.url, arguments.slots, arguments.tokens),
        }
        for one in measures.values():
            one()  # compiles
        rates: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(arguments.rounds):
            for name, one in measures.items():
                rates[name].append(one())
    return rates


def decode_step(lm: "LanguageModel", size: int, tokens: int) -> Callable[[], float]:
    """The decode program alone, with as many steps a call as the engine takes."""
    from recurrentgemma.generation.sampling import Sampling
    from serving.engine.engine import MAX_STEPS
    from serving.engine.programs import Programs
    from serving.engine.slots import Slots

    programs = Programs(lm, vocab_size=lm.config.vocab_size)
    slots = Slots(programs, size, stop_ids=(), constrained=False)

    def rate() -> float:
        for slot in range(size):
            sampling = Sampling(max_tokens=tokens, seed=slot, ignore_eos=True)
            slots.put(slot, programs.empty, [slot], sampling)
        began = time.perf_counter()
        taken = 0
        while taken < tokens:
            taken += len(slots.decode(min(MAX_STEPS, tokens - taken), scored=False)[0].scores)
        return size * tokens / (time.perf_counter() - began)

    return rate


def engine(lm: "LanguageModel", size: int, tokens: int) -> Callable[[], float]:
    """The engine, asked from the same thread."""
    from recurrentgemma.generation.sampling import Sampling
    from serving.engine.engine import Engine
    from serving.engine.request import GenerationRequest

    alone = Engine(lm, slots=size, constrained=True)

    def rate() -> float:
        began = time.perf_counter()
        for number in range(size):
            sampling = Sampling(max_tokens=tokens, seed=number, ignore_eos=True)
            alone.submit(GenerationRequest(prompt=[number] * PROMPT, sampling=sampling))
        while alone.busy:
            alone.step()
        return size * tokens / (time.perf_counter() - began)

    return rate


def server_rate(url: str, size: int, tokens: int) -> float:
    """A server, with a client for each slot."""
    import httpx

    from serving.bench.load import Load, measure, scale_of
    from serving.bench.measures import numbers
    from serving.bench.workload import Lengths, Scale, Workload

    options = {"stream_options": {"include_usage": True}, "ignore_eos": True}
    workload = Workload(
        api="completions",
        prompt=Lengths(PROMPT, PROMPT),
        answer=Lengths(tokens, tokens),
        scale=Scale(0, 1),
        fields={"stream": True, **options},
    )

    async def run() -> float:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            scale = await scale_of(client, workload)
            scaled, load = dataclasses.replace(workload, scale=scale), Load(clients=size)
            measured = await measure(client, scaled, load, requests=size, seed=0)
        return numbers(load, measured)["tokens_per_second"]

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
