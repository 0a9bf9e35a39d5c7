# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: OpenAI's completions and chats over one engine thread. It tokenises, waits
and formats; nothing else.

`GET /health` is 200 only when a request would be answered: 503 while the model loads or compiles,
when the engine's thread has died and when a step hangs. A client that goes away frees its slots.
"""

import asyncio
import html
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recurrentgemma.errors import TemplateError, UserError
from serving.engine.request import Event
from serving.engine.thread import EngineThread, EngineUnavailable, Job, QueueFull
from serving.http import answers
from serving.http.body import MIB, json_schema, read_json
from serving.http.chat_answers import ChatAnswer, read_chat
from serving.http.chat_protocol import ChatCompletion, ChatRequest
from serving.http.freed_memory import GiveBackMemory
from serving.http.protocol import Completion, CompletionRequest, RequestError, now
from serving.http.request_fields import RequestFields

MAX_BODY_MIB = 16  # a million tokens as ids, or as text even where each character is escaped

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{model}</title>
<style>body {{ font: 16px/1.5 system-ui; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ overflow-x: auto }}</style>
<h1>{model}</h1><p>A Griffin language model with OpenAI's completions API.</p>
<ul><li><code>POST /v1/completions</code> (with <code>"stream": true</code> too)</li>
<li><code>POST /v1/chat/completions</code> (the same)</li>
<li><a href="/v1/models"><code>GET /v1/models</code></a></li>
<li><a href="/health"><code>GET /health</code></a></li>
<li><a href="/docs"><code>GET /docs</code></a></li></ul>
<pre>{curl}</pre></html>
"""


_log = logging.getLogger(__name__)
Fields = TypeVar("Fields", bound=RequestFields)


def curl_example(url: str) -> str:
    """A command that asks the server at `url` for a streamed completion."""
    body = '{"prompt": "O Romeo, ", "max_tokens": 64, "stream": true}'
    return (
        f"curl -N {url.rstrip('/')}/v1/completions -H 'Content-Type: application/json' -d '{body}'"
    )


def create_app(
    engine_thread: EngineThread, *, model_name: str, max_body_mib: float = MAX_BODY_MIB
) -> FastAPI:
    """The application over a thread that somebody else starts and closes."""
    app = FastAPI(title=f"Griffin: {model_name}", docs_url="/docs", redoc_url=None)
    app.add_middleware(GiveBackMemory)
    created = now()
    max_body_bytes = int(max_body_mib * MIB)

    @app.post(
        "/v1/completions",
        response_model=Completion,
        openapi_extra=json_schema(CompletionRequest),
    )
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        engine = engine_thread.engine
        check_capacity(body, len(body.prompt), "prompt")
        questions = await run_in_threadpool(answers.read_questions, body, engine)
        answer = answers.Answer(questions, engine, model=model_name)
        return await answered(request, questions, answer)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        openapi_extra=json_schema(ChatRequest),
    )
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatRequest)
        engine = engine_thread.engine
        check_capacity(body, 1, "messages")
        questions = await run_in_threadpool(read_chat, body, engine)
        return await answered(request, questions, ChatAnswer(questions, engine, model=model_name))

    async def read_body(request: Request, schema: type[Fields]) -> Fields:
        body = await read_json(request, schema, max_bytes=max_body_bytes)
        if body.model is not None and body.model != model_name:
            raise _no_such_model(body.model, model_name)
        return body

    def check_capacity(body: RequestFields, prompts: int, field: str) -> None:
        capacity = engine_thread.capacity
        if body.n * prompts > capacity:
            message = (
                f"{prompts} prompts x n={body.n} is more than the {capacity} sequences this server "
                "holds: send fewer at once"
            )
            param = "n" if body.n > 1 else field
            raise RequestError(400, message, param=param, code="invalid_value")

    async def answered(
        request: Request, questions: answers.Questions, answer: answers.Answer | ChatAnswer
    ) -> Response:
        events, body = _Events(engine_thread, questions, request), questions.body
        if body.stream:
            chunks = _stream(events, answer, body)
            return StreamingResponse(chunks, media_type="text/event-stream", headers=_NO_CACHE)
        async for index, event in events:
            answer.take(index, event)
        return _json(answer.whole())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != model_name:
            raise _no_such_model(name, model_name)
        return model_card()

    def model_card() -> dict[str, Any]:
        return {"id": model_name, "object": "model", "created": created, "owned_by": "griffin-lm"}

    @app.get("/health")
    async def health() -> JSONResponse:
        stalled = engine_thread.stalled_for_s() > 0
        status = "stalled" if stalled else engine_thread.status
        content = {"status": "ok" if status == "ready" else status, "model": model_name}
        if status == "ready":
            engine, unfinished = engine_thread.engine, engine_thread.unfinished
            running = min(engine.running, unfinished)
            content |= {"slots": engine.slots, "running": running, "waiting": unfinished - running}
        return JSONResponse(content, status_code=200 if status == "ready" else 503)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> HTMLResponse:
        curl = html.escape(curl_example(str(request.base_url)))
        return HTMLResponse(_PAGE.format(model=html.escape(model_name), curl=curl))

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body.model_dump(), status_code=error.status, headers=headers)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        mistake = RequestError(400, str(error), param=error.field, code="invalid_value")
        return await request_error(request, mistake)

    @app.exception_handler(TemplateError)
    async def template_error(request: Request, error: TemplateError) -> Response:
        _log.error("%s", error)
        return await request_error(
            request, RequestError(500, str(error), code="chat_template_error")
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return await request_error(request, _bug())  # Starlette raises it anew: it is logged

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> Response:
        return await request_error(request, RequestError(429, str(error), code="queue_full"))

    @app.exception_handler(EngineUnavailable)
    async def unavailable(request: Request, error: EngineUnavailable) -> Response:
        return await request_error(request, RequestError(503, str(error), code="unavailable"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return await request_error(request, RequestError(error.status_code, message))

    return app


_NO_CACHE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _bug() -> RequestError:
    message = "this is the server's fault, not the request's: its log has the details"
    return RequestError(500, message, code="internal_error")


def _no_such_model(name: str, served: str) -> RequestError:
    message = f"there is no model {name!r} here; this server has {served!r}"
    return RequestError(404, message, param="model", code="model_not_found")


def _json(completion: BaseModel) -> Response:
    body = completion.model_dump_json(exclude_unset=True)
    return Response(body, media_type="application/json")


async def _stream(
    events: "_Events", answer: answers.Answer | ChatAnswer, body: RequestFields
) -> AsyncIterator[str]:
    """Server-sent events: a chunk each time a choice grows, the usage if asked for, then [DONE]."""
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    extra: dict[str, Any] = {"usage": None} if with_usage else {}
    try:
        async for index, event in events:
            for chunk in answer.chunks(index, event, extra):
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    except EngineUnavailable as error:  # the status line is long gone: say it in the stream
        failure = RequestError(503, str(error), code="unavailable").body
        yield f"data: {failure.model_dump_json()}\n\n"
        return
    except Exception:  # a bug, and the same holds
        _log.exception("an answer that was being streamed has failed")
        yield f"data: {_bug().body.model_dump_json()}\n\n"
        return
    finally:
        events.close()
    if with_usage:
        yield f"data: {answer.last().model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"


class _Events:
    """The events of one request, in order, as an asynchronous iterator of (choice, event). Submits
    at once (raises QueueFull, EngineUnavailable); cancels what is left when the client goes away or
    `close` is called.
    """

    def __init__(self, engine_thread: EngineThread, questions: answers.Questions, request: Request):
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event | EngineUnavailable]] = asyncio.Queue()

        def deliver(index: int, event: Event | EngineUnavailable) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        self._engine_thread = engine_thread
        self._unfinished = len(questions.requests)
        self._job = Job(questions.requests, deliver)
        engine_thread.submit(self._job)
        self._watch = asyncio.create_task(self._until_gone(request))

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
        self._queue.put_nowait((0, EngineUnavailable("the client has gone away")))

    def close(self) -> None:
        self._watch.cancel()
        self._cancel()

    def _cancel(self) -> None:
        if self._unfinished:
            self._unfinished = 0
            self._engine_thread.cancel(self._job)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        try:
            while self._unfinished:
                index, event = await self._queue.get()
                if isinstance(event, EngineUnavailable):
                    raise event
                if event.finish_reason is not None:
                    self._unfinished -= 1
                yield index, event
        finally:
            self.close()
