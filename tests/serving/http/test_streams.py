"""A stream ends with [DONE], or with an error that says why not."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from serving.engine.request import Event
from serving.engine.thread import EngineUnavailable
from serving.http.protocol import Completion, CompletionRequest
from serving.http.streams import chunks_of


class Parts:
    """An answer of one chunk an event."""

    def chunks(self, index, event, extra):
        return [Completion(id="x", created=1, model=event.text, choices=[], **extra)]

    def last(self):
        return Completion(id="x", created=1, model="usage", choices=[])


class Source:
    def __init__(self, iterator, closed):
        self._iterator, self._closed = iterator, closed

    def __aiter__(self):
        return self._iterator

    def close(self):
        self._closed.append(True)


def told(events: Sequence[Event | Exception], **fields: Any) -> tuple[list[Any], bool]:
    """What a stream of these events says, and whether it has let go of them."""
    closed = []

    async def iterate():
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield 0, event

    async def collect() -> list[str]:
        source: Any = Source(iterate(), closed)
        body = CompletionRequest(prompt=["a"], stream=True, **fields)
        return [chunk async for chunk in chunks_of(source, Parts(), body)]

    lines = [chunk.removeprefix("data: ").strip() for chunk in asyncio.run(collect())]
    return [line if line == "[DONE]" else json.loads(line) for line in lines], bool(closed)


def test_a_chunk_an_event_then_the_usage_then_done():
    events = [Event(request_id=1, text="a"), Event(request_id=1, text="b", finish_reason="stop")]
    chunks, closed = told(events)
    assert [chunk["model"] for chunk in chunks[:-1]] == ["a", "b"]
    assert chunks[-1] == "[DONE]"
    assert closed
    chunks, _ = told(events, stream_options={"include_usage": True})
    assert [chunk["model"] for chunk in chunks[:-1]] == ["a", "b", "usage"]
    assert chunks[0]["usage"] is None


def test_what_goes_wrong_is_the_last_event(caplog):
    for error, code in ((EngineUnavailable("gone"), "unavailable"), (KeyError("x"), "internal_er")):
        chunks, closed = told([Event(request_id=1, text="a"), error])
        assert chunks[-1]["error"]["code"].startswith(code)
        assert closed
    assert "KeyError" in caplog.text
