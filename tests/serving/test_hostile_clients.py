"""Clients that send what is none, leave at any time, or are many: no 500, no slot that is lost, no
request that is stuck.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import struct
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from serving.http.options import ServerOptions
from serving.http.server import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "ab", "max_tokens": 2, "stop": ["x"], "logprobs": 1, "seed": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/responses": {"input": [{"role": "user", "content": "Hi"}], "max_output_tokens": 2},
    "/tokenize": {"prompt": "ab"},
    "/detokenize": {"tokens": [65, 66]},
    "/v1/sessions": {"name": "a"},
}
ODD = [
    *(None, True, -1, 0, 2**70, 1e300, "", "\x00", "é" * 50, [], {}, [[]], [{}], {"a": None}),
    *(["a", 1], [None], {"type": "x"}, [{"role": "user"}], [{"type": "text"}], "a" * 5000),
]
JSON = {"Content-Type": "application/json"}


def malformed(chance: random.Random) -> tuple[str, bytes]:
    """A path and a body that was valid before something happened to it."""
    path = chance.choice(list(VALID))
    body = json.loads(json.dumps(VALID[path]))
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(4):
            case 0:
                body[chance.choice(list(body))] = chance.choice(ODD)
            case 1:
                body[chance.choice(["n", "best_of", "stream", "tools", "x", ""])] = chance.choice(
                    ODD
                )
            case 2:
                body.pop(chance.choice(list(body)), None)
                body = body or {"a": 1}
            case 3:
                nested = chance.choice(list(body.values()))
                if isinstance(nested, list) and nested and isinstance(nested[0], dict):
                    nested[0][chance.choice(["role", "content", "type"])] = chance.choice(ODD)
    content = bytearray(json.dumps(body).encode())
    match chance.randrange(5):
        case 0:
            del content[chance.randrange(len(content)) :]
        case 1:
            content[chance.randrange(len(content))] = chance.randrange(256)
        case 2:
            place = chance.randrange(len(content))
            content[place:place] = chance.choice([b"[" * 3000, b"\\ud800", b"\xff", b'"', b"1e999"])
    return path, bytes(content)


@pytest.fixture
def short_answers(fake_engine, monkeypatch):
    """With a tokenizer, and no answer longer than three tokens, whatever is asked for."""
    fake_engine.lm.tokenizer = ByteTokenizer()
    use_template(fake_engine.lm.tokenizer, "{{ messages[-1].content }}")
    next_event = fake_engine._next

    def bounded(id):
        event = next_event(id)
        if event.num_generated >= 3 and event.finish_reason is None:
            del fake_engine.live[id]
            return dataclasses.replace(event, finish_reason="length")
        return event

    monkeypatch.setattr(fake_engine, "_next", bounded)


def test_500_malformed_bodies(app, short_answers, engine_thread):
    async def ask_all() -> list[tuple[int, str, bytes]]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        answers: list[tuple[int, str, bytes]] = []
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for number in range(500):
                path, body = malformed(random.Random(number))
                answer = await client.post(path, content=body, headers=JSON)
                answers.append((answer.status_code, answer.text, body))
        return answers

    answers = asyncio.run(ask_all())
    assert [answer for answer in answers if answer[0] >= 500] == []
    refused = [json.loads(text)["error"] for status, text, _ in answers if status >= 400]
    assert len(refused) > 300
    assert all(error["message"] and error["type"] for error in refused)
    assert engine_thread.unfinished == 0


def conforms(app, *, examples: int, adapt=None) -> int:
    """How many requests the OpenAPI document has made, all of which were answered by it."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    count = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        def check(case):
            nonlocal count
            count += 1
            if adapt is not None:
                adapt(case)
            case.call_and_validate(checks=CHECKS)

        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        strategy |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )(given(case=strategy)(check))()
    return count


def test_what_the_openapi_document_says(app, short_answers, engine_thread):
    assert conforms(app, examples=5) > 50
    assert engine_thread.unfinished == 0


@pytest.mark.slow
def test_what_the_openapi_document_says_of_a_real_model(griffin, tmp_path, running_thread):
    """With sessions, constraints, chats; no answer of more than four tokens."""

    def adapt(case):
        if isinstance(case.body, dict) and case.method == "POST":
            for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                if isinstance(case.body.get(field), int):
                    case.body[field] = min(case.body[field], 4)
            if case.path in VALID and "max_output_tokens" not in case.body:
                known = {"/v1/chat/completions": "max_tokens", "/v1/responses": "max_output_tokens"}
                if case.path in known:
                    case.body.setdefault(known[case.path], 4)

    with running_thread(lambda: griffin, 64) as thread:
        options = ServerOptions(sessions=tmp_path / "sessions")
        app = create_app(thread, model_name="griffin", options=options)
        assert conforms(app, examples=100, adapt=adapt) > 1000
        assert thread.unfinished == 0


async def leave_at_random(url: str, number: int, within_s: float) -> None:
    """Ask for something long, and go away before, while or after it is answered."""
    chance = random.Random(number)
    path = chance.choice(["/v1/completions", "/v1/chat/completions", "/v1/responses"])
    body: dict[str, Any] = dict(VALID[path]) | {"stream": chance.random() < 0.7}
    for field in ("max_tokens", "max_output_tokens"):
        if field in body:
            body[field] = chance.choice([3, 300, 10**9])
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":")[-1]))
    if chance.random() < 0.1:
        request = request[: chance.randrange(len(request))]
    if chance.random() < 0.5:  # not a word of farewell
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.write(request)
    await asyncio.sleep(chance.random() * within_s)
    if chance.random() < 0.3:
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(reader.read(500), within_s)
    writer.close()


async def all_leave(url: str, count: int, *, at_once: int, within_s: float) -> None:
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with places:
            await leave_at_random(url, number, within_s)

    await asyncio.gather(*(one(number) for number in range(count)))


def test_clients_that_leave_at_random(url, fake_engine, engine_thread, wait_until):
    asyncio.run(all_leave(url, 60, at_once=8, within_s=0.02))
    ask = {"prompt": "a", "n": 4, "max_tokens": 2}  # all places that there are
    post = lambda: httpx.post(f"{url}/v1/completions", json=ask, timeout=60)  # noqa: E731
    wait_until(lambda: post().status_code == 200)
    wait_until(lambda: engine_thread.unfinished == 0 and not fake_engine.live)


@pytest.mark.slow
def test_1000_clients_that_leave_at_random(griffin, running_thread, running_server, wait_until):
    """Beside them one goes on, and its answers stay what they are alone."""
    ask = {"prompt": "Once", "max_tokens": 40, "temperature": 1.0, "seed": 1, "logprobs": 2}
    with (
        running_thread(lambda: griffin, 64) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        alone = httpx.post(f"{url}/v1/completions", json=ask, timeout=60).json()["choices"]

        async def both() -> list:
            leaving = asyncio.create_task(all_leave(url, 1000, at_once=32, within_s=0.3))
            answers = []
            async with httpx.AsyncClient(timeout=120) as client:
                while not leaving.done():
                    answer = await client.post(f"{url}/v1/completions", json=ask)
                    answers.append(answer)
                    await asyncio.sleep(0.2)
            await leaving
            return answers

        answers = asyncio.run(both())
        wait_until(lambda: thread.unfinished == 0 and not griffin.busy)
        assert len(answers) > 5
        assert {answer.status_code for answer in answers} <= {200, 429}
        told = [answer.json()["choices"] for answer in answers if answer.status_code == 200]
        assert told
        assert all(choices == alone for choices in told)
        again = httpx.post(f"{url}/v1/completions", json=ask, timeout=60).json()["choices"]
        assert again == alone
