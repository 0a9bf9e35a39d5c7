# SPDX-License-Identifier: Apache-2.0
"""`griffin bench serve`: load a server of OpenAI's API, ours or another, and measure it."""

import asyncio
import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from eval.options import Result, ResultOptions
from recurrentgemma.errors import UserError
from serving.bench.workload import Scale, Workload, lengths, read_lines

if TYPE_CHECKING:
    from serving.bench.load import Load
    from serving.bench.served import Served

EXAMPLES = """Load a server of OpenAI's API: how long tokens take to come, and how many come.

The server is one that runs (its URL), whoever wrote it, or a model that is served for the while.
An API key is taken from the variable OPENAI_API_KEY.

examples:
  griffin bench serve runs/demo --clients 1 8 32 --out load     a model, served here
  griffin bench serve http://127.0.0.1:8000 --rate 2 4 8        requests that arrive by chance
  griffin bench serve http://127.0.0.1:8000 --lines asked.jsonl --api chat
  griffin bench serve URL --prompt 16-512 --answer exp:128 --requests 500 --json
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadArguments:
    server: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL|PATH")]
    """A server that is ready, or a run, a checkpoint or a model's name, which is then served."""
    clients: tuple[int, ...] = ()
    """Loads of so many clients, each of which asks again once it has its answer; by default 8."""
    rate: tuple[float, ...] = ()
    """Loads of so many requests a second, which arrive by chance (a Poisson process)."""
    requests: int = 100
    """Of each load."""
    warmup: int = 8
    """Requests before the first load, as many at once as its clients, that do not count."""
    prompt: str = "128"
    """Tokens of a prompt: N, LOW-HIGH (each as likely) or exp:MEAN (exponential)."""
    answer: str = "64"
    """Tokens of an answer, in the same way."""
    lines: Path | None = None
    """Requests from a file instead, a JSON object a line: a prompt or messages, and whatever else a
    request may say. They are taken in turn."""
    api: Literal["completions", "chat"] = "completions"
    """What is asked: /v1/completions or /v1/chat/completions."""
    model: str | None = None
    """The model that requests name; by default the first that the server names."""
    temperature: float = 1.0
    """Of every request."""
    ignore_eos: bool = True
    """Let answers be as long as --answer says. Servers that lack the field refuse it."""
    seed: int = 0
    """Of prompts, lengths and arrivals."""
    timeout: float = 600.0
    """Seconds without anything of an answer after which it is given up."""
    serve: str = ""
    """Options of the griffin serve that is started for a model: --serve="--slots 32"."""
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Measure, print, and write what was asked for. Returns 1 where a request had an error."""
    arguments = tyro.cli(LoadArguments, prog="griffin bench serve", description=EXAMPLES, args=argv)
    return run(arguments)


def run(arguments: LoadArguments) -> int:
    """Raises UserError: an option that cannot be, or a server that does not answer."""
    from eval import results
    from serving.bench.load import Load
    from serving.bench.measures import plots, tables

    loads = [Load(clients=count) for count in arguments.clients]
    loads += [Load(rate=rate) for rate in arguments.rate]
    workload = _workload(arguments)
    settings = {k: v for k, v in dataclasses.asdict(arguments).items() if k != "result"}
    settings["lines"] = None if arguments.lines is None else str(arguments.lines)
    out = arguments.result.out
    with results.open_results(out, kind="serve", settings=settings) as kept:
        if kept.finished is None:
            with _server(arguments) as (url, server):
                measuring = _measured(arguments, url, workload, loads or [Load(clients=8)], server)
                rows = asyncio.run(measuring)
            kept.finish({"loads": rows}, tables=tables(rows), plots=plots(rows))
        record = kept.finished
    assert record is not None
    results.show(record, as_json=arguments.result.json, folder=out)
    loads_done = record["result"]["loads"]
    failures = [message for load in loads_done for message in load["errors_by_message"]]
    for message in dict.fromkeys(failures):
        print(f"answered with an error: {message}", file=sys.stderr)
    return 1 if failures else 0


def _workload(arguments: LoadArguments) -> Workload:
    least: dict[str, float] = {"requests": 1, "warmup": 0, "temperature": 0}
    for option, bound in least.items():
        if not getattr(arguments, option) >= bound:
            raise UserError(f"--{option} {getattr(arguments, option)}: expected {bound} or more")
    for option in ("clients", "rate"):
        if not all(value > 0 for value in getattr(arguments, option)):  # nor is one nan
            raise UserError(f"--{option} {getattr(arguments, option)}: expected more than 0")
    if arguments.serve and _is_url(arguments.server):
        raise UserError("--serve has options of a griffin serve, and a URL is one that runs")
    fields: dict[str, Any] = {
        "temperature": arguments.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if arguments.ignore_eos:
        fields["ignore_eos"] = True
    return Workload(
        api=arguments.api,
        prompt=lengths(arguments.prompt, "--prompt"),
        answer=lengths(arguments.answer, "--answer"),
        scale=Scale(0, 1),
        fields=fields,
        lines=read_lines(arguments.lines, arguments.api) if arguments.lines else (),
    )


@contextlib.contextmanager
def _server(arguments: LoadArguments) -> "Iterator[tuple[str, Served | None]]":
    """The URL of the server, and the server itself where it is started for this."""
    from serving.bench.served import served

    if _is_url(arguments.server):
        yield arguments.server, None
        return
    with served(arguments.server, shlex.split(arguments.serve)) as server:
        yield server.url, server


async def _measured(
    arguments: LoadArguments,
    url: str,
    workload: Workload,
    loads: "Sequence[Load]",
    server: "Served | None",
) -> list[dict[str, Any]]:
    """The numbers of each load, one after the other."""
    import httpx

    from eval.progress_bar import progress_bar
    from serving.bench.load import first_model, measure, scale_of
    from serving.bench.measures import numbers

    key = os.environ.get("OPENAI_API_KEY")
    rows = []
    async with httpx.AsyncClient(
        base_url=url.removesuffix("/").removesuffix("/v1"),
        headers={"Authorization": f"Bearer {key}"} if key else None,
        timeout=httpx.Timeout(arguments.timeout),
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
        ),
    ) as client:
        model = arguments.model or await first_model(client)
        workload = dataclasses.replace(workload, fields={"model": model} | workload.fields)
        if not workload.lines:
            workload = dataclasses.replace(workload, scale=await scale_of(client, workload))
        if arguments.warmup:
            await measure(
                client, workload, loads[0], requests=arguments.warmup, seed=arguments.seed + 1
            )
        for load in loads:
            with progress_bar(load.name, arguments.requests, unit="requests") as bar:
                measured = await measure(
                    client,
                    workload,
                    load,
                    requests=arguments.requests,
                    seed=arguments.seed,
                    answered=bar.update,
                )
            memory = None if server is None else server.memory_bytes()
            rows.append(numbers(load, measured) | {"server_memory_bytes": memory})
    return rows


def _is_url(server: str) -> bool:
    return server.startswith(("http://", "https://"))
