"""What users of other servers complain of: work that goes on for nobody, health that lies, queues
without an end.
"""

import asyncio
import concurrent.futures
import json
import logging
import socket

import httpx
import openai
import pytest

from serving.engine import thread as engine_thread_module
from serving.http.server import create_app


def test_a_client_that_leaves_a_stream_frees_its_slot(url, fake_engine, wait_until):
    body = {"prompt": "abc", "max_tokens": 10**9, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        assert fake_engine.live
    wait_until(lambda: not fake_engine.live, timeout_s=10)
    assert httpx.get(f"{url}/health").json()["running"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_frees_its_place(url, fake_engine, wait_until, stream):
    fake_engine.gate.clear()
    body = json.dumps({"prompt": "abc", "max_tokens": 10**9, "stream": stream}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: fake_engine.live)
    fake_engine.gate.set()
    wait_until(lambda: not fake_engine.live, timeout_s=10)
    assert fake_engine.steps < 10**5


def test_a_client_that_is_gone_before_the_first_byte_frees_its_slot(app, fake_engine, wait_until):
    body = json.dumps({"prompt": "a", "max_tokens": 10**9, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body}]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        await asyncio.Event().wait()  # nobody reads

    asyncio.run(app(scope, receive, send))
    wait_until(lambda: fake_engine.steps and not fake_engine.live, timeout_s=10)


def test_a_full_queue_answers_429_and_recovers(url, fake_engine, engine_thread, wait_until):
    fake_engine.gate.clear()
    post = lambda **body: httpx.post(f"{url}/v1/completions", json=body, timeout=30)  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor() as pool:
        four = [pool.submit(post, prompt="a", max_tokens=3) for _ in range(4)]
        wait_until(lambda: engine_thread.unfinished == 4)
        refused = post(prompt="a")
        assert refused.headers["retry-after"] == "1"
        error = refused.json()["error"]
        assert error["type"] == "rate_limit_error"
        assert error["code"] == "queue_full"
        assert "4 of 4 places are taken" in error["message"]
        health = httpx.get(f"{url}/health").json()
        assert health["running"] + health["waiting"] == 4
        fake_engine.gate.set()
        assert all(future.result().status_code == 200 for future in four)
    assert post(prompt="a", n=4, max_tokens=1).status_code == 200


def test_the_death_of_the_engine_is_told_to_everybody(url, fake_engine, wait_until):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with client:
        stream = client.completions.create(model="fake", prompt="a", max_tokens=10**9, stream=True)
        next(iter(stream))
        fake_engine.fail = True
        with pytest.raises(openai.APIError, match="the engine has failed"):
            for _ in stream:
                pass
        assert httpx.get(f"{url}/health").status_code == 503
        assert httpx.get(f"{url}/health").json()["status"] == "failed"
        with pytest.raises(openai.InternalServerError, match="the engine has failed") as caught:
            client.completions.create(model="fake", prompt="a")
    assert caught.value.status_code == 503


def test_death_ends_answers_that_are_not_streamed(url, fake_engine, engine_thread, wait_until):
    fake_engine.gate.clear()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ask = lambda **body: pool.submit(httpx.post, f"{url}/v1/completions", **body)  # noqa: E731
        running = ask(json={"prompt": ["a", "b", "c"]})
        wait_until(lambda: fake_engine.live)
        waiting = ask(json={"prompt": "d"})  # the engine, inside a step, has not heard of it
        wait_until(lambda: engine_thread.unfinished == 4)
        fake_engine.fail = True
        fake_engine.gate.set()
        assert running.result().status_code == 503
        assert waiting.result().status_code == 503


def test_a_bug_is_logged_with_its_traceback(url, fake_engine, monkeypatch, caplog, wait_until):
    logger = logging.getLogger("uvicorn")  # which hands nothing on to the root logger
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(fake_engine, "tokens", lambda text: {}[text])
    answer = httpx.post(f"{url}/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    wait_until(lambda: "KeyError: 'a'" in caplog.text)  # the answer goes first


def test_health_while_loading(fake_engine, running_thread, running_server, wait_until):
    def build():
        fake_engine.gate.wait()
        return fake_engine

    fake_engine.gate.clear()
    thread = engine_thread_module.EngineThread(build, max_waiting=1)
    thread.start()
    with running_server(create_app(thread, model_name="fake")) as url:
        health = httpx.get(f"{url}/health")
        assert (health.status_code, health.json()["status"]) == (200, "loading")  # it lives
        ready = httpx.get(f"{url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "loading")
        early = httpx.post(f"{url}/v1/completions", json={"prompt": "a"})
        assert early.status_code == 503
        assert "loading or compiling" in early.json()["error"]["message"]
        fake_engine.gate.set()
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        assert thread.close(timeout_s=10)
        assert httpx.get(f"{url}/health").json()["status"] == "stopped"
        assert httpx.get(f"{url}/ready").json()["status"] == "stopped"


def test_health_when_a_step_hangs(url, fake_engine, engine_thread, monkeypatch, wait_until):
    monkeypatch.setattr(engine_thread_module, "STALLED_AFTER_S", 0.1)
    fake_engine.gate.clear()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(
            httpx.post, f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=30
        )
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 503, timeout_s=10)
        assert httpx.get(f"{url}/health").json()["status"] == "stalled"
        fake_engine.gate.set()
        assert answer.result().status_code == 200
    assert httpx.get(f"{url}/health").status_code == 200


def test_closing_ends_what_runs(url, fake_engine, engine_thread, wait_until):
    with httpx.stream(
        "POST", f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 10**9, "stream": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert engine_thread.close(timeout_s=10)
        events = [line for line in lines if line]
    assert "the server is shutting down" in events[-1]
    assert "[DONE]" not in events[-1]


def test_the_real_client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["fake"]
        whole = client.completions.create(
            model="fake", prompt=["ab", "c"], max_tokens=3, n=2, logprobs=1, seed=1, stop=["zz"]
        )
        assert [choice.text for choice in whole.choices] == ["aba", "aba", "ccc", "ccc"]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        stream = client.completions.create(
            model="fake",
            prompt="ab",
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"top_k": 5, "min_p": 0.1},
        )
        chunks = list(stream)
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "aba"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 5
        with pytest.raises(openai.BadRequestError, match="'max_tokens': expected 0 or more"):
            client.completions.create(model="fake", prompt="a", max_tokens=-1)
        with pytest.raises(openai.NotFoundError, match="'fake'"):
            client.completions.create(model="other", prompt="a")
