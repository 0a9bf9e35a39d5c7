# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: OpenAI's API over one engine thread. It tokenises, waits and formats;
nothing else.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from serving.engine.thread import EngineThread
from serving.http import answers
from serving.http.access import ApiKeys, AtMost
from serving.http.adapter_routes import add_adapter_routes
from serving.http.body import json_schema
from serving.http.chat_answers import ChatAnswer, read_chat
from serving.http.chat_protocol import ChatCompletion, ChatRequest
from serving.http.errors import add_error_handlers
from serving.http.freed_memory import GiveBackMemory
from serving.http.metrics import Metrics, add_metrics
from serving.http.options import ServerOptions
from serving.http.page.routes import add_page
from serving.http.probes import add_probes
from serving.http.protocol import Completion, CompletionRequest, ErrorBody
from serving.http.request_log import RequestLog
from serving.http.response_routes import add_response_routes
from serving.http.service import Service
from serving.http.session_answers import HeldSession, read_chat_turn, read_completion
from serving.http.session_routes import add_session_routes
from serving.http.streams import STREAMED
from serving.http.token_routes import add_token_routes


def curl_example(url: str) -> str:
    """A command that asks the server at `url` for a streamed completion."""
    body = '{"prompt": "O Romeo, ", "max_tokens": 64, "stream": true}'
    return (
        f"curl -N {url.rstrip('/')}/v1/completions -H 'Content-Type: application/json' -d '{body}'"
    )


_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "An error, in OpenAI's form."}
}


def create_app(
    engine_thread: EngineThread, *, model_name: str, options: ServerOptions | None = None
) -> FastAPI:
    """The application over a thread that somebody else starts and closes."""
    options = options or ServerOptions()
    app = FastAPI(
        title=f"Griffin: {model_name}", docs_url="/docs", redoc_url=None, responses=_ERRORS
    )
    service = Service(engine_thread, model_name=model_name, options=options)
    add_probes(app, engine_thread, model_name=model_name)
    _add_answers(app, service)
    _add_models(app, service)
    add_page(app, service)
    add_adapter_routes(app, service)
    add_token_routes(app, service)
    add_session_routes(app, service)
    add_response_routes(app, service)
    add_error_handlers(app)
    metrics = Metrics(engine_thread, model_name, updates=service.adaptation_updates)
    add_metrics(app, metrics)
    _add_middleware(app, options, metrics)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions",
        response_model=Completion,
        responses=STREAMED,
        openapi_extra=json_schema(CompletionRequest),
    )
    async def completions(request: Request) -> Response:
        body = await service.read(request, CompletionRequest)
        engine = service.engine
        service.check_capacity(body, len(body.prompt), "prompt")
        if body.session is not None:
            held = await HeldSession.of(service.sessions, body.session)
            with held.until_taken():
                questions = await run_in_threadpool(read_completion, body, engine, held)
                answer = answers.Answer(questions, engine, model=service.model_name)
                return await service.answered(request, questions, answer, held=held)
        questions = await run_in_threadpool(answers.read_questions, body, engine)
        answer = answers.Answer(questions, engine, model=body.model or service.model_name)
        return await service.answered(request, questions, answer)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=STREAMED,
        openapi_extra=json_schema(ChatRequest),
    )
    async def chat(request: Request) -> Response:
        body = await service.read(request, ChatRequest)
        engine = service.engine
        service.check_capacity(body, 1, "messages")
        if body.session is not None:
            held = await HeldSession.of(service.sessions, body.session)
            with held.until_taken():
                questions = await run_in_threadpool(read_chat_turn, body, engine, held)
                answer = ChatAnswer(questions, engine, model=service.model_name)
                return await service.answered(request, questions, answer, held=held)
        questions = await run_in_threadpool(read_chat, body, engine)
        answer = ChatAnswer(questions, engine, model=body.model or service.model_name)
        return await service.answered(request, questions, answer)


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [service.model_card(name) for name in service.model_names],
        }

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.model_card(name)


def _add_middleware(app: FastAPI, options: ServerOptions, metrics: Metrics) -> None:
    """The last one comes first."""
    app.add_middleware(GiveBackMemory)
    app.add_middleware(AtMost, most=options.most_open)
    if options.api_keys:
        also_open = ("/metrics",) if options.open_metrics else ()
        app.add_middleware(ApiKeys, keys=options.api_keys, also_open=also_open)
    if options.cors:  # before the keys: a browser asks without one first
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(RequestLog, metrics=metrics, log_prompts=options.log_prompts)
