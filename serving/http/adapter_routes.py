# SPDX-License-Identifier: Apache-2.0
"""Adapters are loaded and dropped by requests, as vLLM names them: only where the server was told
to take such, for whoever may send one has it read a path."""

from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from recurrentgemma.errors import UserError
from serving.features.adapters import Adapters, NoSuchAdapter
from serving.http.body import json_schema
from serving.http.protocol import RequestError
from serving.http.request_fields import STRICT
from serving.http.service import Service


class LoadAdapter(BaseModel):
    model_config = STRICT

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str = Field(min_length=1, max_length=4096)


class UnloadAdapter(BaseModel):
    model_config = STRICT

    lora_name: str = Field(min_length=1, max_length=200)


Body = TypeVar("Body", bound=BaseModel)


def add_adapter_routes(app: FastAPI, service: Service) -> None:
    is_allowed = service.options.load_adapters

    async def read(request: Request, schema: type[Body]) -> Body:
        if not is_allowed:
            message = "this server loads no adapters: have it started with --load-adapters"
            raise RequestError(403, message, code="not_allowed")
        return await service.read(request, schema)

    def adapters() -> Adapters:
        assert service.engine.adapters is not None
        return service.engine.adapters

    @app.post(
        "/v1/load_lora_adapter",
        openapi_extra=json_schema(LoadAdapter),
        include_in_schema=is_allowed,
    )
    async def load(request: Request) -> PlainTextResponse:
        body = await read(request, LoadAdapter)
        try:
            await run_in_threadpool(adapters().load, body.lora_name, body.lora_path)
        except OSError as error:
            raise UserError(f"{body.lora_path}: {error}", field="lora_path") from None
        except UserError as error:
            is_taken = body.lora_name in {*adapters().names, *adapters().reserved}
            field = "lora_name" if is_taken else "lora_path"
            raise UserError(str(error), field=field) from None
        return PlainTextResponse(f"adapter {body.lora_name!r} is loaded")

    @app.post(
        "/v1/unload_lora_adapter",
        openapi_extra=json_schema(UnloadAdapter),
        include_in_schema=is_allowed,
    )
    async def unload(request: Request) -> PlainTextResponse:
        body = await read(request, UnloadAdapter)
        try:
            adapters().drop(body.lora_name)
        except NoSuchAdapter as error:
            raise RequestError(404, str(error), param="lora_name", code="model_not_found") from None
        return PlainTextResponse(f"adapter {body.lora_name!r} takes no more requests")
