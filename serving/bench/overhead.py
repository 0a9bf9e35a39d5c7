# SPDX-License-Identifier: Apache-2.0
"""What HTTP and scheduling cost over the bare decode step, at full batch (docs/serving.md).

    python -m serving.bench.overhead runs/demo --slots 32 --dtype float32 --separate-cores

Tokens/s of the decode program alone, of the engine without HTTP, and of a server with a client for
each slot, all of one model. They take turns, so that whatever else runs slows them alike.

The clients share the machine with the server, and on a CPU with what it computes: tokens/s pay for
their work, too. CPU time per token is the server's alone, but threads of XLA that wait for one
whose core is taken count as busy. With --separate-cores the clients have cores of their own, as
clients on other machines have, and what is compared has one core. What threads other than XLA's use
says best what scheduling and HTTP cost: it hardly depends on how fast the machine happens to be.
Needs Linux.
"""

import asyncio
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

from recurrentgemma.errors import UserError

if TYPE_CHECKING:
    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.generation.sampling import Sampling

PROMPT = 16  # tokens


class Cpu(NamedTuple):
    """Seconds of CPU time."""

    programs: float  # of XLA's threads
    beside: float  # of all others


class Measured(NamedTuple):
    tokens_per_second: float
    cpu: Cpu  # of a token


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
    temperature: float = 1.0
    """At which all three draw; 0: the likeliest token, which costs less."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    separate_cores: bool = False
    """One core for the program, the engine or the server, the others for the clients."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        OverheadArguments, prog="python -m serving.bench.overhead", description=__doc__, args=argv
    )
    measured = measure(arguments)
    for name, rounds in measured.items():
        pairs = list(zip(measured["decode step"], rounds, strict=True))
        rate = statistics.median(one.tokens_per_second for one in rounds)
        cpu = statistics.median(sum(one.cpu) for one in rounds)
        beside = [one.cpu.beside / one.cpu.programs for one in rounds]
        print(
            f"{name:12} {rate:10,.0f} tokens/s  {1000 / rate * arguments.slots:8.3f} ms/step  "
            f"{_more([b.tokens_per_second / one.tokens_per_second for b, one in pairs])};  "
            f"{1e6 * cpu:8.1f} us CPU a token  "
            f"{_more([sum(one.cpu) / sum(b.cpu) for b, one in pairs])}, "
            f"{statistics.median(beside):.1%} ({min(beside):.1%} to {max(beside):.1%}) "
            "beside what programs take"
        )
    return 0


def _more(ratios: list[float]) -> str:
    more = [ratio - 1 for ratio in ratios]
    return f"{statistics.median(more):+7.1%} ({min(more):+.1%} to {max(more):+.1%})"


def measure(arguments: OverheadArguments) -> dict[str, list[Measured]]:
    """Of each round. Raises UserError where it cannot be measured."""
    if not Path("/proc/self/task").exists():
        raise UserError("this needs Linux, which says what each thread uses")
    client_cores: set[int] = set()
    if arguments.separate_cores:
        first, *others = _cores()
        client_cores = set(others)
        os.sched_setaffinity(0, {first})  # before JAX starts its threads
    import recurrentgemma as rg
    from serving.bench.served import served

    lm = rg.load(arguments.path, dtype=arguments.dtype)
    # Or it would read its answers again for their chats' next turns, while the others are measured.
    options = ["--slots", str(arguments.slots), "--cache", "0"]
    options += ["--dtype", arguments.dtype] if arguments.dtype else []
    with served(arguments.path, options) as server:
        served_rate = partial(_on, client_cores, server_rate, server.url, arguments)
        measures: dict[str, tuple[Callable[[], float], int]] = {
            "decode step": (decode_step(lm, arguments), os.getpid()),
            "engine": (engine(lm, arguments), os.getpid()),
            "server": (served_rate, server.process),
        }
        for one, _ in measures.values():
            one()  # compiles
        measured: dict[str, list[Measured]] = {name: [] for name in measures}
        for _ in range(arguments.rounds):
            for name, (one, process) in measures.items():
                before = cpu_seconds(process)
                rate = one()
                spent = zip(cpu_seconds(process), before, strict=True)
                tokens = arguments.slots * arguments.tokens
                cpu = Cpu(*((after - before) / tokens for after, before in spent))
                measured[name].append(Measured(rate, cpu))
    return measured


def _cores() -> list[int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UserError("--separate-cores needs two cores, and there is one: leave it out")
    return cores


def _on(cores: set[int], call: Callable[..., float], *args) -> float:
    """Call on these cores, if any are named."""
    if not cores:
        return call(*args)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return call(*args)
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(process: int) -> Cpu:
    """That a process's threads have used. Programs of one core are run by one of XLA's threads."""
    programs = beside = 0.0
    for thread in Path(f"/proc/{process}/task").iterdir():
        seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
        if (thread / "comm").read_text().startswith("tf_XLA"):
            programs += seconds
        else:
            beside += seconds
    return Cpu(programs, beside)


def decode_step(lm: "LanguageModel", arguments: OverheadArguments) -> Callable[[], float]:
    """The decode program alone, with as many steps a call as the engine takes."""
    from serving.engine.engine import MAX_STEPS
    from serving.engine.programs import Programs
    from serving.engine.slots import Slots

    size, tokens = arguments.slots, arguments.tokens
    programs = Programs(lm, vocab_size=lm.config.vocab_size)
    slots = Slots(programs, size, stop_ids=(), constrained=False)

    def rate() -> float:
        for slot in range(size):
            sampling = _sampling(arguments, seed=slot)
            slots.put(slot, programs.empty, [slot], sampling)
        began = time.perf_counter()
        taken = 0
        while taken < tokens:
            taken += len(slots.decode(min(MAX_STEPS, tokens - taken), scored=False)[0].scores)
        return size * tokens / (time.perf_counter() - began)

    return rate


def engine(lm: "LanguageModel", arguments: OverheadArguments) -> Callable[[], float]:
    """The engine, asked from the same thread."""
    from serving.engine.engine import Engine
    from serving.engine.request import GenerationRequest

    size, tokens = arguments.slots, arguments.tokens
    alone = Engine(lm, slots=size, constrained=True)

    def rate() -> float:
        began = time.perf_counter()
        for number in range(size):
            sampling = _sampling(arguments, seed=number)
            alone.submit(GenerationRequest(prompt=[number] * PROMPT, sampling=sampling))
        while alone.busy:
            alone.step()
        return size * tokens / (time.perf_counter() - began)

    return rate


def _sampling(arguments: OverheadArguments, *, seed: int) -> "Sampling":
    from recurrentgemma.generation.sampling import Sampling

    return Sampling(
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        seed=seed,
        ignore_eos=True,
    )


def server_rate(url: str, arguments: OverheadArguments) -> float:
    """A server, with a client for each slot."""
    import httpx

    from serving.bench.load import Load, measure, scale_of
    from serving.bench.measures import numbers
    from serving.bench.workload import Lengths, Scale, Workload

    size, tokens = arguments.slots, arguments.tokens
    options = {"stream_options": {"include_usage": True}, "ignore_eos": True}
    options["temperature"] = arguments.temperature
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
