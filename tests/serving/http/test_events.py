"""Nobody who reads slowly, leaves or takes too long holds a slot."""

import concurrent.futures
import json
import socket

import httpx
import pytest

from serving.http import events
from serving.http.options import ServerOptions
from serving.http.server import create_app

ENDLESS = {"prompt": "abc", "max_tokens": 10**9, "stream": True}


def request_line(body: dict) -> bytes:
    content = json.dumps(body).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


@pytest.fixture
def stalled_reader(url):
    """A connection that asks for an endless stream and reads nothing of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
        connection.sendall(request_line(ENDLESS))
        yield connection


def test_a_slow_reader_loses_its_answer_and_holds_up_nobody(
    url, stalled_reader, fake_engine, monkeypatch, wait_until
):
    monkeypatch.setattr(events, "MOST_BEHIND", 64)
    wait_until(lambda: fake_engine.steps > 5)
    whole = httpx.post(f"{url}/v1/completions", json={"prompt": "ab", "max_tokens": 3}, timeout=30)
    assert whole.json()["choices"][0]["text"] == "aba"
    wait_until(lambda: not fake_engine.live)
    assert httpx.get(f"{url}/health").json()["running"] == 0
    stalled_reader.settimeout(30)
    told = b""
    while b"slow_reader" not in told[-2000:]:  # what was sent before is there, then why it ends
        part = stalled_reader.recv(65536)
        assert part
        told += part
    assert b"[DONE]" not in told


def test_an_answer_that_is_not_streamed_is_never_given_up_for_its_reader(
    url, monkeypatch, fake_engine
):
    monkeypatch.setattr(events, "MOST_BEHIND", 4)
    whole = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 500}, timeout=60)
    assert whole.json()["usage"]["completion_tokens"] == 500


def test_leaving_frees_the_slot_within_one_step(
    url, fake_engine, engine_thread, wait_until, monkeypatch
):
    monkeypatch.setattr(events, "MOST_BEHIND", 10**9)  # it leaves before it is given up
    cancelled = []
    cancel = engine_thread.cancel
    monkeypatch.setattr(engine_thread, "cancel", lambda job: (cancel(job), cancelled.append(job)))
    with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS) as answer:
        next(answer.iter_lines())
        fake_engine.gate.clear()
    wait_until(lambda: cancelled)
    steps = fake_engine.steps
    fake_engine.gate.set()
    wait_until(lambda: not fake_engine.live)
    assert fake_engine.steps <= steps + 2  # the one that was going on, and an empty one


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long(
    engine_thread, running_server, wait_until, stream, monkeypatch
):
    monkeypatch.setattr(events, "MOST_BEHIND", 10**9)  # no engine is as fast as this one
    options = ServerOptions(timeout_s=0.3)
    fake_engine = engine_thread.engine
    with running_server(create_app(engine_thread, model_name="fake", options=options)) as url:
        body = {"prompt": "a", "max_tokens": 10**9, "stream": stream}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
        wait_until(lambda: not fake_engine.live)
        if stream:
            error = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] == "timeout"
        assert "0.3 s" in error["message"]
        short = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert short.status_code == 200


def test_many_choices_have_a_buffer_each(url, fake_engine, monkeypatch):
    monkeypatch.setattr(events, "MOST_BEHIND", 300)
    ask = {"prompt": "ab", "n": 2, "max_tokens": 290, "stream": True}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = list(
            pool.map(lambda _: httpx.post(f"{url}/v1/completions", json=ask, timeout=60), range(2))
        )
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
