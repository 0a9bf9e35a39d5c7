# SPDX-License-Identifier: Apache-2.0
"""`GET /health` and `GET /ready`: whether to restart this server, and whether to send it requests.

/health is 200 while the process answers and its engine lives, while it loads, too: 503 after the
engine has failed or stopped, and when one of its steps hangs. /ready is 200 when a token was
generated a moment ago, or is within DEADLINE_S; 503 while it loads, drains, hangs, has failed, or
is too full for one more within that time.
"""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import Event, GenerationRequest
from serving.engine.thread import EngineThread, EngineUnavailable, Job, QueueFull

DEADLINE_S = 5.0
FRESH_S = 5.0  # for which a token that was generated says that another will be


class Readiness:
    """Whether an answer would come. One probe at a time, whoever asks."""

    def __init__(self, engine_thread: EngineThread):
        self._engine_thread = engine_thread
        self._lock = asyncio.Lock()

    async def reason(self) -> str | None:
        """Why it is not ready; None if it is."""
        thread = self._engine_thread
        if thread.status != "ready":
            return thread.status
        if thread.draining:
            return "draining"
        async with self._lock:
            if time.monotonic() - thread.last_event < FRESH_S:
                return None
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await self._generate()
            except TimeoutError:
                return "stalled" if thread.stalled_for_s() > 0 else "busy"

    async def _generate(self) -> str | None:
        """A token of a prompt of one."""
        loop, thread = asyncio.get_running_loop(), self._engine_thread
        answered: asyncio.Future[str | None] = loop.create_future()

        def settle(reason: str | None) -> None:
            if not answered.done():
                answered.set_result(reason)

        def deliver(index: int, event: Event | EngineUnavailable) -> None:
            if loop.is_closed():
                return
            if isinstance(event, EngineUnavailable):
                loop.call_soon_threadsafe(settle, "failed")
            elif event.finish_reason is not None:
                loop.call_soon_threadsafe(settle, None)

        sampling = Sampling(max_tokens=1)
        job = Job([GenerationRequest(prompt=[0], sampling=sampling)], deliver)
        try:
            thread.submit(job)
        except QueueFull:
            return "busy"
        except EngineUnavailable:
            return thread.status
        try:
            return await answered
        finally:
            if not answered.done() or answered.cancelled():
                thread.cancel(job)


class Probe(BaseModel):
    status: str
    model: str
    slots: int | None = None
    running: int | None = None
    waiting: int | None = None


_PROBED: dict[int | str, dict[str, Any]] = {200: {"model": Probe}, 503: {"model": Probe}}


def add_probes(app: FastAPI, engine_thread: EngineThread, *, model_name: str) -> None:
    readiness = Readiness(engine_thread)

    def content(status: str) -> dict[str, str | int]:
        occupancy = engine_thread.occupancy
        counts = {} if occupancy is None else occupancy._asdict()
        return {"status": status, "model": model_name, **counts}

    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["probes"], responses=_PROBED)
    async def health(request: Request) -> JSONResponse:
        """200 while the process answers and its engine lives."""
        status = engine_thread.status
        if engine_thread.stalled_for_s() > 0:
            status = "stalled"
        elif engine_thread.draining and status == "ready":
            status = "draining"
        alive = status in ("ready", "loading", "draining")
        shown = "ok" if status == "ready" else status
        return JSONResponse(content(shown), status_code=200 if alive else 503)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", tags=["probes"], responses=_PROBED)
    async def ready(request: Request) -> JSONResponse:
        """200 when a token has just been generated."""
        reason = await readiness.reason()
        headers = {} if reason is None else {"Retry-After": "1"}
        status = 200 if reason is None else 503
        return JSONResponse(content(reason or "ready"), status_code=status, headers=headers)
