"""A line a request, with its id, and without a word of what was said."""

import io
import json
import logging

import httpx
import pytest

from serving.http.options import ServerOptions
from serving.http.request_log import REQUESTS, log_requests_to
from serving.http.server import create_app


@pytest.fixture
def lines(monkeypatch):
    """`lines()`: what was logged since the last call."""
    file = io.StringIO()
    monkeypatch.setattr(REQUESTS, "handlers", [])
    log_requests_to(file)

    def read() -> list[dict]:
        text = file.getvalue()
        file.seek(0)
        file.truncate()
        return [json.loads(line) for line in text.splitlines()]

    yield read
    REQUESTS.setLevel(logging.WARNING)
    REQUESTS.propagate = True


def test_ids_are_taken_and_returned(ask, lines):
    body = {"prompt": "a secret", "max_tokens": 2}
    given = ask("POST", "/v1/completions", json=body, headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    forged = ask("POST", "/v1/completions", json=body, headers={"X-Request-Id": 'a"b c'})
    assert len(forged.headers["x-request-id"]) == 32
    first, second = lines()
    assert (first["request_id"], first["status"], first["route"]) == (
        "mine-1", 200, "/v1/completions",
    )  # fmt: skip
    assert (first["prompt_tokens"], first["completion_tokens"]) == (8, 2)
    assert first["finish_reasons"] == ["length"]
    assert second["request_id"] == forged.headers["x-request-id"]
    assert "secret" not in json.dumps([first, second])


def test_errors_and_bugs(ask, lines, fake_engine, monkeypatch):
    ask("POST", "/v1/completions", json={"prompt": "a secret", "secret": 1})
    ask("GET", "/secret")
    monkeypatch.setattr(fake_engine, "tokens", lambda text: {}[text])
    bug = ask("POST", "/v1/completions", json={"prompt": "a secret"})
    refused, missing, failed = lines()
    assert (refused["status"], refused["error"]) == (400, "unknown_parameter")
    assert (missing["status"], missing["route"]) == (404, "none")
    assert (failed["status"], failed["error"]) == (500, "internal_error")
    assert bug.headers["x-request-id"] == failed["request_id"]
    assert "secret" not in json.dumps([refused, missing, failed])


def test_probes_are_logged_when_they_fail(ask, lines, engine_thread):
    ask("GET", "/health")
    ask("GET", "/ready")
    ask("GET", "/metrics")
    assert lines() == []
    engine_thread.drain()
    ask("GET", "/ready")
    (line,) = lines()
    assert (line["route"], line["status"]) == ("/ready", 503)


def test_a_client_that_leaves(url, lines, fake_engine, wait_until):
    body = {"prompt": "abc", "max_tokens": 10**9, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    logged: list[dict] = []
    wait_until(lambda: logged.extend(lines()) or logged)
    assert logged[0]["finish_reasons"] == ["abort"]


def test_prompts_only_where_the_server_was_told_to(engine_thread, running_server, lines):
    options = ServerOptions(log_prompts=True)
    with running_server(create_app(engine_thread, model_name="fake", options=options)) as url:
        httpx.post(f"{url}/v1/completions", json={"prompt": "ab", "max_tokens": 3})
    (line,) = lines()
    assert (line["asked"], line["answered"]) == (["ab"], ["aba"])
