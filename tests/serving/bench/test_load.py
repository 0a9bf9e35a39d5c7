"""Loads on a server: by clients and by rate."""

import asyncio
import dataclasses

import httpx
import pytest

from recurrentgemma.errors import UserError
from serving.bench.client import Answer
from serving.bench.load import Load, first_model, measure, scale_of
from serving.bench.workload import Lengths, Scale, Workload

WORKLOAD = Workload(
    api="completions",
    prompt=Lengths(5, 20),
    answer=Lengths(3, 3),
    scale=Scale(0, 1),
    fields={"stream": True, "stream_options": {"include_usage": True}},
)


def measured(url: str, load: Load, workload: Workload = WORKLOAD):
    async def run():
        async with httpx.AsyncClient(base_url=url) as client:
            return await measure(client, workload, load, requests=6, seed=2)

    return asyncio.run(run())


@pytest.mark.parametrize("load", [Load(clients=2), Load(rate=100)], ids=lambda load: load.name)
def test_every_request_is_answered(url, load, fake_engine):
    fake_engine.slots = 6  # a slow machine may have them all at once
    answers = measured(url, load).answers
    assert [answer.error for answer in answers] == [None] * 6
    assert [answer.tokens for answer in answers] == [3] * 6
    asked = [len(body["prompt"]) for body, _ in zip(WORKLOAD.bodies(2), range(6), strict=False)]
    assert sorted(answer.prompt_tokens for answer in answers) == sorted(asked)


def test_clients_wait_for_their_answers_and_arrivals_do_not(monkeypatch):
    """Six requests of 50 ms: two clients take three turns, and a high rate has all at once."""
    most = {"now": 0, "most": 0}

    async def ask(client, route, body):
        most["now"] += 1
        most["most"] = max(most.values())
        await asyncio.sleep(0.05)
        most["now"] -= 1
        return Answer(began=0.0, took=0.05)

    monkeypatch.setattr("serving.bench.load.ask", ask)
    assert measured("http://test", Load(clients=2)).seconds >= 0.15
    assert most["most"] == 2
    measured("http://test", Load(rate=1e6))
    assert most["most"] == 6


def test_a_server_is_asked_what_it_has_and_how_it_counts(url):
    async def ask(workload: Workload):
        async with httpx.AsyncClient(base_url=url) as client:
            return await first_model(client), await scale_of(client, workload)

    assert asyncio.run(ask(WORKLOAD)) == ("fake", Scale(0, 1))
    refused = dataclasses.replace(WORKLOAD, fields={"no_such_field": 1})
    with pytest.raises(UserError, match="does not answer: 400: unknown field 'no_such_field'"):
        asyncio.run(ask(refused))


def test_no_server():
    async def ask() -> str:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client:
            return await first_model(client)

    with pytest.raises(UserError, match=r"127.0.0.1:9/?v1/models names no model \(ConnectError"):
        asyncio.run(ask())
