"""A request that is timed: by what a server sends, whole or broken, with usage or without."""

import asyncio
import json

import httpx
import pytest

from serving.bench.client import ask, prompt_tokens

BODY = {"prompt": "a", "max_tokens": 5}


def served(content: bytes, status: int = 200) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def stream(*chunks: dict) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)


def asked(content: bytes, status: int = 200):
    return asyncio.run(ask(served(content, status), "/v1/completions", BODY))


def choice(text: str, reason: str | None = None) -> dict:
    return {"choices": [{"text": text, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}


def test_a_stream_with_usage():
    answer = asked(stream(choice("ab"), choice(""), choice("c", "length"), USAGE) + b"data: [DONE]")
    assert answer.error is None
    assert (answer.prompt_tokens, answer.tokens, len(answer.gaps)) == (3, 7, 1)
    assert answer.ttft is not None
    assert 0 < answer.ttft <= answer.ttft + answer.gaps[0] <= answer.took
    assert answer.time_per_token == pytest.approx(answer.gaps[0] / 6)


@pytest.mark.parametrize(("reason", "tokens"), [("length", 5), ("stop", 2)])
def test_a_stream_of_a_chat_without_usage(reason, tokens):
    first = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    deltas = [{"choices": [{"delta": {"content": text}}]} for text in "ab"]
    last = {"choices": [{"delta": {}, "finish_reason": reason}]}
    answer = asked(stream(first, *deltas, last))
    assert (answer.error, answer.tokens, len(answer.gaps)) == (None, tokens, 1)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b'{"error": {"message": "the queue is full"}}', 429, "429: the queue is full"),
        (b"<html>", 502, "502: <html>"),
        (stream(choice("ab")), 200, "the stream ended before the answer did"),
        (stream(choice("ab"), {"error": {"message": "it stops"}}), 200, "it stops"),
    ],
)
def test_what_goes_wrong_stands_in_the_answer(content, status, message):
    assert asked(content, status).error == message


def test_nobody_listens():
    async def nobody() -> str | None:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client:
            return (await ask(client, "/v1/completions", BODY)).error

    assert (asyncio.run(nobody()) or "").startswith("ConnectError")


def test_how_many_tokens_a_prompt_has():
    counts = [
        asyncio.run(prompt_tokens(served(content, status), "/v1/completions", BODY))
        for content, status in [
            (b'{"usage": {"prompt_tokens": 12}}', 200),
            (b'{"usage": null}', 200),
            (b'{"error": {"message": "unknown field \'ignore_eos\'"}}', 400),
        ]
    ]
    assert counts == [12, "it tells no usage", "400: unknown field 'ignore_eos'"]
