# SPDX-License-Identifier: Apache-2.0
"""`/v1/sessions`: named states on disk. What goes on with one is a completion or a chat."""

import dataclasses
import uuid
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from recurrentgemma.errors import UserError
from serving.features.sessions import (
    NONE_LEARNS,
    NoSuchSession,
    SessionInfo,
    Sessions,
    checked_name,
)
from serving.http.body import json_schema
from serving.http.request_fields import STRICT
from serving.http.service import Service, json_response


class NameRequest(BaseModel):
    model_config = STRICT

    name: str | None = Field(None, max_length=100)  # letters, digits and _.- after the first


class NoFields(BaseModel):
    model_config = STRICT


class NewSession(NameRequest):
    adapt: bool = False  # whether it learns


class AdaptationObject(BaseModel):
    version: int  # how often it has learned; 0 is the base
    tokens: int  # that it was given to learn from
    stopped: str | None  # why it learns no more, if it does not


class SessionObject(BaseModel):
    id: str
    object: str = "session"
    bytes: int
    updated: int  # seconds since the epoch
    busy: bool  # whether a request goes on with it
    learns: bool  # whether it adapts
    tokens: int | None = None  # that it has read and generated
    messages: list[dict[str, str]] | None = None  # of its chat
    adaptation: AdaptationObject | None = None


class SessionList(BaseModel):
    object: str = "list"
    data: list[SessionObject]


class DeletedSession(BaseModel):
    id: str
    object: str = "session.deleted"
    deleted: bool = True


def add_session_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/sessions", response_model=SessionList)
    async def sessions() -> Response:
        """All of them, by name; each is one file, whatever it has read."""
        return json_response(await run_in_threadpool(_listed, service.sessions))

    @app.post(
        "/v1/sessions",
        response_model=SessionObject,
        openapi_extra=json_schema(NewSession, required=False),
    )
    async def create(request: Request) -> Response:
        """An empty one."""
        body = await service.read(request, NewSession, optional=True)
        name = _new_name(body)
        if body.adapt and service.sessions.adaptations is None:
            raise UserError(NONE_LEARNS, field="adapt")
        await run_in_threadpool(service.sessions.create, name, adapt=body.adapt)
        return json_response(await run_in_threadpool(_shown, service.sessions, name))

    @app.get("/v1/sessions/{name}", response_model=SessionObject)
    async def session(name: str) -> Response:
        """With how many tokens it has read, and the messages of its chat. Its file is checked."""
        return json_response(await run_in_threadpool(_shown, service.sessions, name))

    @app.post(
        "/v1/sessions/{name}/fork",
        response_model=SessionObject,
        openapi_extra=json_schema(NameRequest, required=False),
    )
    async def fork(name: str, request: Request) -> Response:
        """A copy under another name, which goes its own way."""
        body = await service.read(request, NameRequest, optional=True)
        new = _new_name(body)
        await run_in_threadpool(service.sessions.fork, name, new)
        return json_response(await run_in_threadpool(_shown, service.sessions, new))

    @app.post("/v1/sessions/{name}/adapt", response_model=SessionObject)
    async def adapt(name: str, request: Request) -> Response:
        """From here on it learns from what it reads and says. Takes no body, or an empty object."""
        await service.read(request, NoFields, optional=True)
        await run_in_threadpool(service.sessions.adapt, name)
        return json_response(await run_in_threadpool(_shown, service.sessions, name))

    @app.delete("/v1/sessions/{name}/adapt", response_model=SessionObject)
    async def adapt_no_more(name: str) -> Response:
        """It goes on as the base, from its last tokens; what it has learned is forgotten."""
        await run_in_threadpool(service.sessions.adapt_no_more, name)
        return json_response(await run_in_threadpool(_shown, service.sessions, name))

    @app.delete("/v1/sessions/{name}", response_model=DeletedSession)
    async def delete(name: str) -> Response:
        await run_in_threadpool(service.sessions.delete, name)
        return json_response(DeletedSession(id=name, object="session.deleted", deleted=True))


def _new_name(body: NameRequest) -> str:
    """Raises UserError, which names the field `name`: it can be none."""
    if body.name is None:
        return f"session-{uuid.uuid4().hex}"
    try:
        return checked_name(body.name)
    except UserError as error:
        raise UserError(str(error), field="name") from None


def _listed(sessions: Sessions) -> SessionList:
    data = []
    for name in sessions.names():
        try:
            data.append(_object(sessions.info(name)))
        except NoSuchSession:
            continue  # deleted meanwhile
    return SessionList(object="list", data=data)


def _shown(sessions: Sessions, name: str) -> SessionObject:
    point = sessions.point(name)
    more: dict[str, Any] = {"tokens": point.count}
    more["messages"] = [{"role": role, "content": content} for role, content in point.messages]
    adaptation = sessions.adaptation(name)
    if adaptation is not None:
        more["adaptation"] = AdaptationObject(**dataclasses.asdict(adaptation))
    return _object(sessions.info(name), **more)


def _object(info: SessionInfo, **more: Any) -> SessionObject:
    return SessionObject(
        id=info.name,
        object="session",
        bytes=info.bytes,
        updated=int(info.used),
        busy=info.busy,
        learns=info.learns,
        **more,
    )
