# SPDX-License-Identifier: Apache-2.0
"""A load on a server: so many clients, each of which asks again when it has its answer, or requests
that arrive at a rate, whether or not the server keeps up."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from itertools import islice

import httpx

from recurrentgemma.errors import UserError
from serving.bench.client import Answer, ask, prompt_tokens
from serving.bench.workload import ROUTES, Scale, Workload, arrivals, asked, calibrated, words

SHORT, LONG = 200, 1000  # characters of the prompts by which a server's tokens are counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """How requests come: by `clients`, or at a `rate` a second."""

    clients: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.clients} clients" if self.rate is None else f"{self.rate:g}/s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Answers, and the seconds from the first request to the last answer."""

    answers: tuple[Answer, ...]
    seconds: float


async def measure(
    client: httpx.AsyncClient,
    workload: Workload,
    load: Load,
    *,
    requests: int,
    seed: int,
    answered: Callable[[int], None] = lambda count: None,
) -> Measured:
    """Send so many requests. answered: is told how many answers are there."""
    route, bodies = ROUTES[workload.api], islice(workload.bodies(seed), requests)
    answers: list[Answer] = []

    async def one(body: dict) -> None:
        answers.append(await ask(client, route, body))
        answered(len(answers))

    async def again_and_again() -> None:
        for body in bodies:
            await one(body)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        if load.rate is None:
            for _ in range(load.clients or 1):
                tasks.create_task(again_and_again())
        else:
            for body, arrival in zip(bodies, arrivals(load.rate, seed), strict=False):
                await asyncio.sleep(began + arrival - time.perf_counter())
                tasks.create_task(one(body))
    return Measured(answers=tuple(answers), seconds=time.perf_counter() - began)


async def scale_of(client: httpx.AsyncClient, workload: Workload) -> Scale:
    """How a server counts tokens. Raises UserError with what it answers instead."""
    import numpy as np

    rng, route = np.random.default_rng(0), ROUTES[workload.api]
    counts = []
    for length in (SHORT, LONG):
        body = workload.fields | asked(workload.api, words(length, rng))
        tokens = await prompt_tokens(client, route, body)
        if isinstance(tokens, str):
            raise UserError(
                f"{client.base_url}{route} does not answer: {tokens}"
                + ("; --no-ignore-eos leaves that field out" if "ignore_eos" in tokens else "")
            )
        counts.append((length, tokens))
    return calibrated(*counts)


async def first_model(client: httpx.AsyncClient) -> str:
    """The first that a server names. Raises UserError: it names none."""
    try:
        response = await client.get("/v1/models")
        response.raise_for_status()
        return response.json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{client.base_url}/v1/models names no model ({type(error).__name__}: {error}): see "
            "that the server is ready, or name one with --model"
        ) from None
