"""Memory is given back once, after large requests only."""

import asyncio

import pytest

from serving.http import freed_memory


@pytest.mark.parametrize(("sizes", "times"), [([100] * 4, 0), ([10, 600, 600], 1), ([600], 1)])
def test_after_large_requests(monkeypatch, sizes, times):
    calls = []
    monkeypatch.setattr(freed_memory, "LARGE_BYTES", 1000)
    monkeypatch.setattr(freed_memory, "AFTER_S", 0.01)
    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: calls.append(1))

    async def app(scope, receive, send):
        for _ in range(2):  # a body comes in parts
            await receive()

    async def requests() -> None:
        layer = freed_memory.GiveBackMemory(app)
        for size in sizes:

            async def receive(size=size):
                return {"type": "http.request", "body": b"x" * size}

            await layer({"type": "http"}, receive, None)  # type: ignore[arg-type]
        await asyncio.sleep(0.1)

    asyncio.run(requests())
    assert len(calls) == times


def test_after_a_request_that_failed(monkeypatch):
    calls = []
    monkeypatch.setattr(freed_memory, "AFTER_S", 0.01)
    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: calls.append(1))

    async def app(scope, receive, send):
        await receive()
        raise RuntimeError("a bug")

    async def receive():
        return {"type": "http.request", "body": bytes(freed_memory.LARGE_BYTES)}

    async def request() -> None:
        with pytest.raises(RuntimeError):
            await freed_memory.GiveBackMemory(app)({"type": "http"}, receive, None)  # type: ignore[arg-type]
        await asyncio.sleep(0.1)

    asyncio.run(request())
    assert len(calls) == 1
