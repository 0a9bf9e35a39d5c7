"""/health says whether to restart, /ready whether to send requests."""

import pytest

from serving.engine.request import GenerationRequest
from serving.engine.thread import Job
from serving.http import probes


def status(answer):
    return answer.status_code, answer.json()["status"]


def test_ready_is_a_token_that_was_generated(ask, fake_engine, monkeypatch):
    assert status(ask("GET", "/ready")) == (200, "ready")
    steps = fake_engine.steps
    assert steps == 1
    assert status(ask("GET", "/ready")) == (200, "ready")  # of a moment ago
    assert fake_engine.steps == steps
    monkeypatch.setattr(probes, "FRESH_S", 0.0)
    assert status(ask("GET", "/ready")) == (200, "ready")
    assert fake_engine.steps == steps + 1
    assert not fake_engine.live


def test_not_within_the_deadline(ask, fake_engine, engine_thread, monkeypatch, wait_until):
    monkeypatch.setattr(probes, "DEADLINE_S", 0.1)
    fake_engine.gate.clear()
    answer = ask("GET", "/ready")
    assert status(answer) == (503, "busy")
    assert answer.headers["retry-after"] == "1"
    assert status(ask("GET", "/health")) == (200, "ok")
    fake_engine.gate.set()
    wait_until(lambda: not engine_thread.unfinished)  # the probe's own place is free again


def test_a_full_queue_is_not_ready(ask, fake_engine, engine_thread):
    from recurrentgemma.generation.sampling import Sampling

    fake_engine.gate.clear()
    request = GenerationRequest(prompt=[65], sampling=Sampling(max_tokens=1))
    engine_thread.submit(Job([request] * 4, lambda i, event: None))
    assert status(ask("GET", "/ready")) == (503, "busy")
    fake_engine.gate.set()


def test_draining_lives_and_is_not_ready(ask, engine_thread):
    engine_thread.drain()
    assert status(ask("GET", "/ready")) == (503, "draining")
    assert status(ask("GET", "/health")) == (200, "draining")
    refused = ask("POST", "/v1/completions", json={"prompt": "a"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "takes nothing new" in refused.json()["error"]["message"]


@pytest.mark.parametrize("asked_before", [True, False])
def test_failed_is_neither(ask, fake_engine, engine_thread, wait_until, asked_before):
    fake_engine.fail = True
    if asked_before:
        assert status(ask("GET", "/ready")) == (503, "failed")
    else:
        ask("POST", "/v1/completions", json={"prompt": "a"})
    wait_until(lambda: engine_thread.status == "failed")
    assert status(ask("GET", "/health")) == (503, "failed")
    assert status(ask("GET", "/ready")) == (503, "failed")
