"""An engine without a model, and a real uvicorn on a free port: what the tests of the HTTP side
stand on.
"""

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

import recurrentgemma as rg
from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.adapters import adapted_layers
from recurrentgemma.config import BlockType
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.text.tokenizer import ByteTokenizer, Tokenizer
from serving.engine.engine import Engine
from serving.engine.request import Event, GenerationRequest, TokenScore
from serving.engine.thread import EngineThread
from serving.features.constraints import Constraints
from serving.http.server import create_app
from tests.drawn import untrained

VOCABULARY = 128


class FakeEngine:
    """Answers every sequence with its own prompt, again and again, one character a step. Steps wait
    while `gate` is clear; `fail` makes the next one raise.
    """

    def __init__(self, *, slots: int = 2):
        config = SimpleNamespace(block_types=("recurrent",))
        self.lm = SimpleNamespace(tokenizer="ascii", config=config)
        self.constraints = self.cache = self.adapters = self.speculation = None
        self.max_prompt = 1000
        self.slots = slots
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False
        self.steps = 0
        self.live: dict[int, tuple[GenerationRequest, int]] = {}
        self._next_id = 0

    @property
    def busy(self) -> bool:
        return bool(self.live)

    @property
    def running(self) -> int:
        return min(self.slots, len(self.live))

    def tokens(self, prompt: str | list[int]) -> list[int]:
        ids = list(prompt.encode()) if isinstance(prompt, str) else prompt
        for token in ids:
            if not 0 <= token < VOCABULARY:
                message = f"token {token} is outside the vocabulary of {VOCABULARY}"
                raise UserError(message, field="prompt")
        return ids

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def token_name(self, id: int) -> str:
        return chr(id)

    def check(self, request: GenerationRequest) -> None:
        assert list(request.prompt) == self.tokens(list(request.prompt))

    def submit_all(self, requests: list[GenerationRequest]) -> list[int]:
        first = self._next_id + 1
        for request in requests:
            self._next_id += 1
            self.live[self._next_id] = (request, 0)
        return list(range(first, self._next_id + 1))

    def cancel(self, id: int) -> None:
        del self.live[id]

    def step(self) -> list[Event]:
        self.gate.wait()
        if self.fail:
            raise RuntimeError("the device is gone")
        self.steps += 1
        return [self._next(id) for id in list(self.live)[: self.slots]]

    def _next(self, id: int) -> Event:
        request, done = self.live[id]
        token = request.prompt[done % len(request.prompt)]
        self.live[id] = (request, done + 1)
        finished = done + 1 == request.sampling.max_tokens
        if finished:
            del self.live[id]
        echoed = [
            TokenScore(token_id=t, logprob=-1.0 if i else None, top=(), offset=i)
            for i, t in enumerate(request.prompt)
        ]
        return Event(
            request_id=id,
            text=chr(token),
            token_ids=(token,),
            scores=(TokenScore(token_id=token, logprob=-0.5, top=((65, -0.25),), offset=done),),
            prompt_scores=tuple(echoed) if request.prompt_logprobs and done == 0 else (),
            num_generated=done + 1,
            finish_reason="length" if finished else None,
        )


@contextlib.contextmanager
def _running_thread(build: Callable[[], Any], max_waiting: int) -> Iterator[EngineThread]:
    thread = EngineThread(build, max_waiting=max_waiting)
    thread.start()
    _wait_until(lambda: thread.status != "loading")
    try:
        yield thread
    finally:
        assert thread.close(timeout_s=10)


@contextlib.contextmanager
def _running_server(app: FastAPI) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def _wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


PATTERNS: dict[str, tuple[BlockType, ...]] = {
    "griffin": ("recurrent", "local_attention"),
    "hawk": ("recurrent",),
    "mqa": ("global_attention",),
}


def _language_model(pattern: str, tokenizer: Tokenizer | None = ByteTokenizer()) -> LanguageModel:  # noqa: B008
    config = dataclasses.replace(
        rg.tiny(),
        vocab_size=261,
        width=32,
        mlp_width=48,
        lru_width=32,
        num_heads=2,
        head_dim=16,
        num_gate_blocks=2,
        attention_window=8,
        context_length=128,
        num_layers=len(PATTERNS[pattern]),
        pattern=PATTERNS[pattern],
        scan_layers=False,
        dtype="float32",
        param_dtype="float32",
    )
    return LanguageModel(untrained(config, 3), tokenizer)


@pytest.fixture(scope="session")
def language_model() -> Callable[..., LanguageModel]:
    """`language_model("griffin" | "hawk" | "mqa", tokenizer)`: a small random one, of bytes."""
    return _language_model


@pytest.fixture(scope="session")
def griffin() -> Engine:
    """Three slots over a small Griffin with places for four adapters, warmed up; every test leaves
    it idle and without adapters."""
    constraints = Constraints(ByteTokenizer())
    lm = _language_model("griffin")
    bank = AdapterBank(lm.model, adapted_layers(lm.config, LoraConfig(rank=2)), count=4, rank=8)
    engine = Engine(
        lm, slots=3, constrained=True, constraints=constraints, bank=bank, model="griffin"
    )
    engine.warm_up()
    return engine


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return _wait_until


@pytest.fixture
def running_thread() -> Callable[..., Any]:
    """`with running_thread(build, max_waiting) as thread`: closed at the end."""
    return _running_thread


@pytest.fixture
def running_server() -> Callable[..., Any]:
    """`with running_server(app) as url`: a real uvicorn on a free loopback port."""
    return _running_server


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def engine_thread(fake_engine: FakeEngine) -> Iterator[EngineThread]:
    """Over the fake engine: two slots and two places in the queue."""
    with _running_thread(lambda: fake_engine, 2) as thread:
        yield thread
        fake_engine.gate.set()


@pytest.fixture
def app(engine_thread: EngineThread) -> FastAPI:
    return create_app(engine_thread, model_name="fake")


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with _running_server(app) as url:
        yield url


@pytest.fixture
def ask(app: FastAPI) -> Callable[..., httpx.Response]:
    """`ask("POST", path, json=...)` through the ASGI transport."""

    async def send(method: str, path: str, **kwargs: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return lambda *args, **kwargs: asyncio.run(send(*args, **kwargs))
