# SPDX-License-Identifier: Apache-2.0
"""What a long prompt does to answers that are decoded beside it (docs/serving.md).

    python -m serving.bench.stall http://127.0.0.1:8000 --tokens 100000 --beside 8

So many answers are streamed, for a while alone and then while the prompt is read: milliseconds per
token of each, and between the pieces that a reader sees. The server needs a slot more than that.
"""

import asyncio
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import httpx
import numpy as np
import tyro

from recurrentgemma.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StallArguments:
    url: Annotated[str, tyro.conf.Positional]
    """Of a server that is ready."""
    tokens: int = 100_000
    """Length of the prompt."""
    beside: int = 8
    """Answers that are decoded meanwhile."""
    alone: float = 5.0
    """Seconds before the prompt comes, and after it is read."""
    vocabulary: int = 256
    """Ids that the prompt is made of."""


class Piece(NamedTuple):
    """What one chunk of a stream brought."""

    at: float
    tokens: int


class Window(NamedTuple):
    """Of a measurement, in seconds by time.perf_counter()."""

    start: float
    stop: float


class Seen(NamedTuple):
    """What readers saw in a window: milliseconds."""

    per_token: float
    between_p50: float
    between_p99: float
    between_most: float


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        StallArguments, prog="python -m serving.bench.stall", description=__doc__, args=argv
    )
    windows, read_in = asyncio.run(measure(arguments))
    print(f"{'ms':24}{'per token':>12}{'between p50':>14}{'p99':>8}{'most':>8}")
    for name, seen in windows.items():
        values = f"{seen.per_token:12.2f}{seen.between_p50:14.1f}{seen.between_p99:8.1f}"
        print(f"{name:24}{values}{seen.between_most:8.1f}")
    ratio = windows["beside the prompt"].per_token / windows["alone"].per_token
    print(f"{ratio:.2f} times as long a token; the prompt was read in {read_in:.1f} s")
    return 0


async def measure(arguments: StallArguments) -> tuple[dict[str, Seen], float]:
    """What was seen alone and beside the prompt, and the seconds to the prompt's first token."""
    async with httpx.AsyncClient(base_url=arguments.url, timeout=3600) as client:
        return await _measure(client, arguments)


async def _measure(
    client: httpx.AsyncClient, arguments: StallArguments
) -> tuple[dict[str, Seen], float]:
    streams: list[list[Piece]] = [[] for _ in range(arguments.beside)]
    tasks = [asyncio.create_task(_decode(client, pieces)) for pieces in streams]
    try:
        await _watch(streams, tasks, 0)
        began = time.perf_counter()
        await _watch(streams, tasks, arguments.alone)
        ids = [(7 * i * i + i) % arguments.vocabulary for i in range(arguments.tokens)]
        body = {"prompt": ids, "max_tokens": 1}
        sent = time.perf_counter()
        (await client.post("/v1/completions", json=body)).raise_for_status()
        read = time.perf_counter()
        await _watch(streams, tasks, arguments.alone)
        ended = time.perf_counter()
    finally:
        for task in tasks:
            task.cancel()
    alone = [Window(began, sent), Window(read, ended)]
    beside = [_around(pieces, Window(sent, read)) for pieces in streams]
    return {
        "alone": seen(streams, [alone] * len(streams)),
        "beside the prompt": seen(streams, [[window] for window in beside]),
    }, read - sent


async def _watch(
    streams: Sequence[Sequence[Piece]], tasks: Sequence[asyncio.Task[None]], seconds: float
) -> None:
    """For so long, and until each stream has brought two pieces more. Raises what a stream raised:
    a server that refuses, or that ended it."""
    counts = [len(pieces) + 2 for pieces in streams]
    await asyncio.sleep(seconds)
    while any(len(pieces) < count for pieces, count in zip(streams, counts, strict=True)):
        await asyncio.sleep(0.01)
        for task in tasks:
            if task.done():
                task.result()


def _around(pieces: Sequence[Piece], window: Window) -> Window:
    """From the last piece before the window to the first after it: a wait that began before the
    window, or ended after it, was felt in it."""
    start = max(piece.at for piece in pieces if piece.at < window.start)
    stop = min(piece.at for piece in pieces if piece.at >= window.stop)
    return Window(start, stop)


async def _decode(client: httpx.AsyncClient, pieces: list[Piece]) -> None:
    """Stream one answer without an end."""
    body = {"prompt": [65], "max_tokens": 10**9, "ignore_eos": True, "temperature": 1}
    body |= {"stream": True, "return_token_ids": True}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        line = ""
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices")
                if not choices:
                    break
                pieces.append(Piece(time.perf_counter(), len(choices[0]["token_ids"])))
    raise UserError(f"the server ended an answer that has no end, with {line!r}")


def seen(streams: Sequence[Sequence[Piece]], windows: Sequence[Sequence[Window]]) -> Seen:
    """Of all streams, each in its windows, both ends of which belong to them."""
    gaps: list[float] = []
    per_token = []
    for pieces, its in zip(streams, windows, strict=True):
        for window in its:
            inside = [piece for piece in pieces if window.start <= piece.at <= window.stop]
            if len(inside) < 2:
                continue
            gaps += [b.at - a.at for a, b in itertools.pairwise(inside)]
            tokens = sum(piece.tokens for piece in inside[1:])
            per_token.append((inside[-1].at - inside[0].at) / max(1, tokens))
    p50, p99, most = 1000 * np.percentile(gaps, (50, 99, 100))
    return Seen(1000 * statistics.median(per_token), float(p50), float(p99), float(most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
