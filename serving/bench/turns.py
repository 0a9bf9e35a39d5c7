# SPDX-License-Identifier: Apache-2.0
"""Whether a chat's last turn begins as fast as its first (docs/serving.md).

    python -m serving.bench.turns http://127.0.0.1:8000 --turns 20

Every turn sends the whole conversation again, as clients do. What a server has cached of it is not
read anew, so that the time to the first token grows with what is new, and not with what there is.
"""

import asyncio
import dataclasses
import json
import statistics
import sys
import time
from typing import Annotated, Any, NamedTuple

import httpx
import numpy as np
import tyro

from serving.bench.load import first_model
from serving.bench.workload import words


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnsArguments:
    url: Annotated[str, tyro.conf.Positional]
    """Of a server that is ready."""
    turns: int = 20
    """Of each chat."""
    characters: int = 400
    """Of what is said in a turn."""
    answer: int = 64
    """Tokens of each answer."""
    chats: int = 5
    """One after the other; medians are reported."""
    pause: float = 0.3
    """Seconds between an answer and the next turn, in which a reader reads."""


class Turn(NamedTuple):
    """How one went."""

    ttft: float
    prompt_tokens: int
    cached_tokens: int
    answer: str


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        TurnsArguments, prog="python -m serving.bench.turns", description=__doc__, args=argv
    )
    chats = asyncio.run(measure(arguments))
    print(f"{'turn':>4}{'prompt':>9}{'cached':>9}{'ttft ms':>10}")
    medians = []
    for number, turns in enumerate(zip(*chats, strict=True), 1):
        medians.append(1000 * statistics.median(turn.ttft for turn in turns))
        prompt, cached = (statistics.median(t[i] for t in turns) for i in (1, 2))
        print(f"{number:4}{prompt:9.0f}{cached:9.0f}{medians[-1]:10.1f}")
    few = min(5, len(medians))
    first, last = (statistics.median(part) for part in (medians[:few], medians[-few:]))
    print(f"the last {few} turns take {last / first:.2f} times the first {few}", end="; ")
    print(f"the last one {medians[-1] / medians[0]:.2f} times the first one")
    return 0


async def measure(arguments: TurnsArguments) -> list[list[Turn]]:
    """The turns of each chat."""
    async with httpx.AsyncClient(base_url=arguments.url, timeout=600) as client:
        model = await first_model(client)
        chats = []
        for number in range(arguments.chats + 1):
            rng, messages, turns = np.random.default_rng(number), [], []
            for _ in range(arguments.turns if number else 2):
                messages.append({"role": "user", "content": words(arguments.characters, rng)})
                turns.append(await _turn(client, model, messages, arguments.answer))
                messages.append({"role": "assistant", "content": turns[-1].answer})
                await asyncio.sleep(arguments.pause)
            chats.append(turns)
    return chats[1:]  # the first one warms up


async def _turn(
    client: httpx.AsyncClient, model: str, messages: list[dict[str, Any]], most: int
) -> Turn:
    body = {"model": model, "messages": messages, "max_tokens": most, "temperature": 0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    began, ttft, text, usage = time.perf_counter(), None, "", {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise OSError(f"the server answers {response.status_code}: {await response.aread()!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if content := choice["delta"].get("content"):
                    ttft = ttft or time.perf_counter() - began
                    text += content
    ttft = ttft or time.perf_counter() - began  # an answer of nothing
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Turn(ttft, usage["prompt_tokens"], cached, text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
