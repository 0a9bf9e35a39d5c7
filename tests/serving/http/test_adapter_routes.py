# SPDX-License-Identifier: Apache-2.0
"""Adapters over HTTP: listed, chosen by `model`, loaded and dropped while the server runs."""

import asyncio

import httpx
import numpy as np
import pytest

from checkpoints import adapters as files
from recurrentgemma.adapters import A, B
from serving.http.options import ServerOptions
from serving.http.server import create_app


@pytest.fixture
def asking(griffin, running_thread):
    """`asking(loads)(method, path, json)` through the ASGI transport."""

    async def send(app, method: str, path: str, json=None) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=json)

    reserved = griffin.adapters.reserved
    griffin.adapters.reserved = frozenset({"base"})
    with running_thread(lambda: griffin, 2) as thread:

        def asking(loads: bool):
            options = ServerOptions(load_adapters=loads)
            app = create_app(thread, model_name="base", options=options)
            return lambda *args, **kwargs: asyncio.run(send(app, *args, **kwargs))

        yield asking
    griffin.adapters.reserved = reserved
    for name in griffin.adapters.names:
        griffin.adapters.drop(name)


@pytest.fixture
def path(griffin, tmp_path) -> str:
    rng = np.random.default_rng(0)
    flat = {}
    for layer, (outputs, inputs) in griffin.adapters.bank.layers.items():
        flat[f"{layer}/{A}"] = rng.normal(size=(inputs, 2)).astype(np.float32)
        flat[f"{layer}/{B}"] = rng.normal(size=(2, outputs)).astype(np.float32)
    files.write(tmp_path, files.from_flat(tmp_path, flat, alpha=2, base="base"))
    return str(tmp_path)


def test_loaded_chosen_and_dropped(asking, path):
    ask = asking(True)

    def text(model: str) -> str:
        body = {"model": model, "prompt": "To be", "max_tokens": 8, "temperature": 0}
        answer = ask("POST", "/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
        return answer.json()["choices"][0]["text"]

    before = text("base")
    body = {"lora_name": "poems", "lora_path": path}
    assert ask("POST", "/v1/load_lora_adapter", json=body).status_code == 200
    base, poems = ask("GET", "/v1/models").json()["data"]
    assert (base["id"], poems["id"]) == ("base", "poems")
    assert (poems["root"], poems["parent"]) == (path, "base")
    assert ask("GET", "/v1/models/poems").json() == poems
    assert text("poems") != before == text("base")
    chat = {"model": "poems", "messages": [{"role": "user", "content": "?"}], "max_tokens": 2}
    assert ask("POST", "/v1/chat/completions", json=chat).json()["model"] == "poems"
    assert ask("POST", "/v1/unload_lora_adapter", json={"lora_name": "poems"}).status_code == 200
    answer = ask("POST", "/v1/completions", json={"model": "poems", "prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_mistakes(asking, path):
    ask = asking(True)
    for body, status in (
        ({"lora_name": "poems", "lora_path": "/nowhere"}, 400),
        ({"lora_name": "base", "lora_path": path}, 400),
        ({"lora_name": "poems"}, 400),
        ({"lora_name": "poems", "lora_path": path, "more": 1}, 400),
    ):
        assert ask("POST", "/v1/load_lora_adapter", json=body).status_code == status
    missing = ask("POST", "/v1/unload_lora_adapter", json={"lora_name": "x"})
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "lora_name"


def test_off_unless_the_server_was_told_to(asking, path):
    for route, body in (
        ("load", {"lora_name": "poems", "lora_path": path}),
        ("load", {}),
        ("unload", {"lora_name": "poems"}),
    ):
        answer = asking(False)("POST", f"/v1/{route}_lora_adapter", json=body)
        assert answer.status_code == 403
        assert "--load-adapters" in answer.json()["error"]["message"]
