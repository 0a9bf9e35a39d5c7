# SPDX-License-Identifier: Apache-2.0
"""What the engine tells of one HTTP request, on its way to whoever reads the answer.

The engine's thread never waits for a reader: it leaves each event in a buffer. One that reads a
stream so slowly that the buffer is full loses its answer, and so does one that has gone away or
whose time is up; the slots are free after the engine's step.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable

from fastapi import Request

from serving.engine.request import Event
from serving.engine.thread import EngineThread, EngineUnavailable, Job
from serving.http.answers import Questions
from serving.http.errors import told
from serving.http.protocol import RequestError
from serving.http.request_record import record_of

MOST_BEHIND = 4096  # events of a sequence that nobody has read; each has a token or more

_GONE = RequestError(499, "the client has gone away", code="client_gone")
_TOO_SLOW = RequestError(
    408,
    "the answer was read too slowly, so it was given up: read a stream as it comes, or ask for "
    "less",
    code="slow_reader",
)


class Events:
    """The events of one request, in order, as an asynchronous iterator of (choice, event). Submits
    at once (raises QueueFull, EngineUnavailable); cancels what is left when the client goes away or
    `close` is called.

    timeout_s: 0 for none. most_behind: events of a sequence that may wait to be read; None for an
    answer that the server itself puts together.
    The iterator raises RequestError where the answer was given up.
    """

    def __init__(
        self,
        engine_thread: EngineThread,
        questions: Questions,
        request: Request,
        *,
        model: str,
        timeout_s: float = 0.0,
        most_behind: int | None = None,
    ):
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

        def deliver(index: int, event: Event | EngineUnavailable) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._put, index, event)

        self._engine_thread = engine_thread
        requests = questions.requests
        self._unfinished = len(requests)
        self._record = record_of(request)
        self._most = math.inf if most_behind is None else most_behind * len(requests)
        self._given_up = self._closed = False
        self._on_over: Callable[[], None] = lambda: None
        self._job = Job(requests, deliver)
        engine_thread.submit(self._job)
        self._record.asked(questions, model)
        self._watch = asyncio.create_task(self._until_gone(request))
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s:
            self._timer = loop.call_later(timeout_s, self._give_up, _too_late(timeout_s))

    def on_over(self, call: Callable[[], None]) -> None:
        """`call` is called when no more events will be read, however it came to that."""
        self._on_over = call

    def close(self) -> None:
        self._closed = True
        self._on_over()
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._cancel()

    def _put(self, index: int, event: Event | EngineUnavailable) -> None:
        if self._given_up or self._closed:
            return
        told = event.error or event if isinstance(event, Event) else event
        if isinstance(told, Event):
            self._record.told(index, told)
        if self._queue.qsize() >= self._most:
            self._give_up(_TOO_SLOW)
        else:
            self._queue.put_nowait((index, told))

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._give_up(_GONE)

    def _give_up(self, reason: RequestError) -> None:
        """Free the slots, and what nobody has read."""
        self._given_up = True
        self._on_over()
        self._cancel()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait((0, reason))

    def _cancel(self) -> None:
        if self._unfinished:
            self._unfinished = 0
            self._engine_thread.cancel(self._job)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        try:
            while self._unfinished or self._given_up:
                index, event = await self._queue.get()
                if isinstance(event, Exception):
                    self._record.error = told(event).body.error.code
                    raise event
                if event.finish_reason is not None:
                    self._unfinished -= 1
                yield index, event
        finally:
            self.close()


def _too_late(timeout_s: float) -> RequestError:
    message = (
        f"the answer was not there after {timeout_s:g} s, which is as long as this server takes "
        "(--timeout): ask for less, or try when it is less busy"
    )
    return RequestError(504, message, code="timeout")
