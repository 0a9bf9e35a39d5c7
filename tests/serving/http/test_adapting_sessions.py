# SPDX-License-Identifier: Apache-2.0
"""Sessions that learn, over HTTP: turned on and off, forked, and no bit of anybody else."""

import concurrent.futures
import dataclasses

import httpx
import pytest

from eval.dynamic.config import OptimizerConfig
from recurrentgemma.lora_config import LoraConfig
from serving.features.adaptation import CHOICES
from serving.http.options import ServerOptions
from serving.http.server import create_app

LEARNING = dataclasses.replace(
    CHOICES,
    segment_length=16,
    lora=LoraConfig(rank=2),
    optimizer=OptimizerConfig(algorithm="adam", learning_rate=0.05),
)


@pytest.fixture
def client(griffin, tmp_path, running_thread, running_server):
    with running_thread(lambda: griffin, 8) as thread:
        options = ServerOptions(sessions=tmp_path, adapting=1, dynamic=LEARNING)
        app = create_app(thread, model_name="griffin", options=options)
        with running_server(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client


def complete(client: httpx.Client, prompt: str, **fields) -> dict:
    body = {"prompt": prompt, "max_tokens": 8, "ignore_eos": True, "seed": 1, "logprobs": 2}
    answer = client.post("/v1/completions", json=body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


def test_from_the_first_to_the_last(client):
    created = client.post("/v1/sessions", json={"name": "a", "adapt": True}).json()
    fresh = {"version": 0, "tokens": 0, "stopped": None}
    assert (created["learns"], created["adaptation"]) == (True, fresh)
    client.post("/v1/sessions", json={"name": "plain"})
    told = {name: complete(client, "All the world's", session=name) for name in ("a", "plain")}
    assert told["a"] == told["plain"], "version 0 is the base"
    assert client.get("/v1/sessions/a").json()["adaptation"]["version"] == 1
    client.post("/v1/sessions/a/fork", json={"name": "b"})
    told = {name: complete(client, " a stage", session=name) for name in ("a", "plain", "b")}
    assert told["a"] == told["b"] != told["plain"]
    shown = client.get("/v1/sessions/b").json()
    assert (shown["tokens"], shown["adaptation"]["version"]) == (40, 2)
    listed = client.get("/v1/sessions").json()["data"]
    assert [(s["id"], s["learns"]) for s in listed] == [("a", True), ("b", True), ("plain", False)]
    assert "griffin:adaptation_updates_total" in client.get("/metrics").text
    off = client.delete("/v1/sessions/b/adapt").json()
    assert (off["learns"], off["tokens"], off.get("adaptation")) == (False, 40, None)
    complete(client, " and", session="b")
    on = client.post("/v1/sessions/plain/adapt").json()
    assert on["adaptation"] == fresh
    assert client.post("/v1/sessions/plain/adapt", json={}).json() == on
    assert error(client.post("/v1/sessions/plain/adapt", json={"x": 1}))[0] == 400
    assert error(client.post("/v1/sessions/none/adapt")) == (404, "session_not_found", "session")
    assert client.delete("/v1/sessions/a").json()["deleted"] is True


def test_a_chat_learns(client):
    client.post("/v1/sessions", json={"name": "c", "adapt": True})
    body = {"max_tokens": 12, "ignore_eos": True, "seed": 1, "session": "c"}
    for text in ("Name three rivers.", "And three more."):
        body["messages"] = [{"role": "user", "content": text}]
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    shown = client.get("/v1/sessions/c").json()
    assert len(shown["messages"]) == 4
    assert shown["adaptation"]["tokens"] == shown["tokens"]
    assert shown["adaptation"]["version"] > 2


def test_it_changes_no_bit_of_others(client):
    client.post("/v1/sessions", json={"name": "a", "adapt": True})
    alone = [complete(client, prompt) for prompt in ("Once", "upon a time")]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        learning = pool.submit(complete, client, "All the world's a stage. " * 4, session="a")
        beside = list(pool.map(lambda prompt: complete(client, prompt), ("Once", "upon a time")))
        learning.result()
    assert beside == alone
    assert client.get("/v1/sessions/a").json()["adaptation"]["version"] > 5
    assert [complete(client, prompt) for prompt in ("Once", "upon a time")] == alone


def test_a_server_where_none_may(griffin, tmp_path, running_thread, running_server):
    with running_thread(lambda: griffin, 8) as thread:
        app = create_app(thread, model_name="griffin", options=ServerOptions(sessions=tmp_path))
        with running_server(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            answer = client.post("/v1/sessions", json={"name": "a", "adapt": True})
            assert error(answer) == (400, "invalid_value", "adapt")
            assert "--adapting" in answer.json()["error"]["message"]
            assert client.get("/v1/sessions").json()["data"] == []
