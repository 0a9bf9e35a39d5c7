# SPDX-License-Identifier: Apache-2.0
"""`/v1/responses`: a chat in OpenAI's newer form, stored so that the next one goes on from it."""

import json
import re
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response as HttpResponse

from recurrentgemma.errors import TemplateError, UserError
from serving.engine.engine import Engine
from serving.http.answers import Questions
from serving.http.body import json_schema, parse_value
from serving.http.chat_answers import read_chat
from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import RequestError
from serving.http.response_answers import ResponseAnswer, Told
from serving.http.response_protocol import (
    DeletedResponse,
    Response,
    ResponsesRequest,
    field_of_input,
    messages_of,
)
from serving.http.response_store import ResponseStore
from serving.http.service import Service, json_response
from serving.http.streams import STREAMED, EventSource, error_in_stream, sse

_FIELDS = {  # of a chat, by what a response calls them
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
}


def add_response_routes(app: FastAPI, service: Service) -> None:
    store = ResponseStore()

    @app.post(
        "/v1/responses",
        response_model=Response,
        responses=STREAMED,
        openapi_extra=json_schema(ResponsesRequest),
    )
    async def create(request: Request) -> HttpResponse:
        """Streamed or not."""
        body = await service.read(request, ResponsesRequest)
        engine = service.engine
        before: Sequence = ()
        if body.previous_response_id is not None:
            earlier = store.get(body.previous_response_id, field="previous_response_id")
            before = earlier.messages
        questions = await run_in_threadpool(_read, body, before, engine)
        answer = ResponseAnswer(body, questions, engine, model=body.model or service.model_name)

        def keep() -> None:
            if body.stored and answer.response.status != "failed":
                store.put(answer.response, [*before, *messages_of(body.input), *answer.messages])

        events = service.ask(request, questions)
        if body.stream:
            return sse(_stream(events, answer, keep))
        async for _, event in events:
            for _ in answer.take(event):
                pass
        keep()
        return HttpResponse(answer.response.model_dump_json(), media_type="application/json")

    @app.get("/v1/responses/{id}", response_model=Response)
    async def retrieve(id: str) -> HttpResponse:
        """One of the last 1,000 that were stored."""
        response = store.get(id).response
        return HttpResponse(response.model_dump_json(), media_type="application/json")

    @app.delete("/v1/responses/{id}", response_model=DeletedResponse)
    async def delete(id: str) -> HttpResponse:
        store.delete(id)
        return json_response(DeletedResponse(id=id, object="response", deleted=True))


def _read(body: ResponsesRequest, before: Sequence, engine: Engine) -> Questions:
    """The chat that answers it. Raises RequestError, UserError by the fields of responses."""
    num_before = len(before) + bool(body.instructions)
    try:
        return read_chat(parse_value(body.as_chat(before), ChatRequest), engine)
    except PydanticCustomError as error:
        context = error.context or {}
        raise RequestError(
            400, error.message(), param=context.get("param"), code="invalid_value"
        ) from None
    except TemplateError:
        raise
    except UserError as error:
        raise UserError(str(error), field=_field(error.field, body, num_before)) from None
    except RequestError as error:
        detail = error.body.error
        param = _field(detail.param, body, num_before)
        raise RequestError(error.status, detail.message, param=param, code=detail.code) from None


def _field(name: str | None, body: ResponsesRequest, num_before: int) -> str | None:
    """A chat's field as that of a response. num_before: messages before those of the input."""
    if name is None or name in _FIELDS:
        return name and _FIELDS[name]
    in_message = re.fullmatch(r"messages\.(\d+)(.*)", name)
    if in_message is None:
        return name
    number = int(in_message[1]) - num_before
    return "input" if number < 0 else field_of_input(body.input, f"{number}{in_message[2]}")


async def _stream(events: EventSource, answer: ResponseAnswer, keep) -> AsyncIterator[str]:
    """The last event is response.completed, incomplete or failed."""
    try:
        for told in answer.begin():
            yield _line(told)
        async for _, event in events:
            for told in answer.take(event):
                if told["type"] in ("response.completed", "response.incomplete"):
                    keep()
                yield _line(told)
    except Exception as error:
        for told in answer.fail(error_in_stream(error).body.error):
            yield _line(told)
    finally:
        events.close()


def _line(told: Told) -> str:
    return f"event: {told['type']}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n"
