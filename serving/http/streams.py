# SPDX-License-Identifier: Apache-2.0
"""Answers as server-sent events."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.responses import StreamingResponse

from serving.engine.request import Event
from serving.http.errors import BUG, told
from serving.http.request_fields import RequestFields

_log = logging.getLogger(__name__)


STREAMED: dict[int | str, dict[str, Any]] = {  # what an endpoint says of itself
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class AnswerInParts(Protocol):
    """What an answer does to be streamed."""

    def chunks(self, index: int, event: Event, extra: dict[str, Any]) -> Sequence[BaseModel]: ...
    def last(self) -> BaseModel: ...


class EventSource(Protocol):
    """Of which one reads events, in order, as (choice, event)."""

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]: ...
    def close(self) -> None: ...


def sse(chunks: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


async def chunks_of(
    events: EventSource, answer: AnswerInParts, body: RequestFields
) -> AsyncIterator[str]:
    """A chunk each time a choice grows, the usage if asked for, then [DONE]. What goes wrong is the
    last event: the status line is long gone."""
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    extra: dict[str, Any] = {"usage": None} if with_usage else {}
    try:
        async for index, event in events:
            for chunk in answer.chunks(index, event, extra):
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    except Exception as error:
        yield f"data: {error_in_stream(error).body.model_dump_json()}\n\n"
        return
    finally:
        events.close()
    if with_usage:
        yield f"data: {answer.last().model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"


def error_in_stream(error: Exception):
    """What a client is told; a bug is logged, since nobody else will."""
    failure = told(error)
    if failure is BUG:
        _log.error("an answer that was being streamed has failed", exc_info=error)
    return failure
