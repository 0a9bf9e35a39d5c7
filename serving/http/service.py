# SPDX-License-Identifier: Apache-2.0
"""What the routes have in common: one engine thread, the model's name, bodies, answers."""

import asyncio
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from recurrentgemma.errors import UserError
from serving.engine.engine import Engine
from serving.engine.request import Event
from serving.engine.thread import EngineThread
from serving.features.adaptation import Adaptations
from serving.features.adapters import Adapters
from serving.features.sessions import Sessions
from serving.http import events
from serving.http.answers import Questions
from serving.http.body import MIB, read_json, without_body
from serving.http.options import ServerOptions
from serving.http.protocol import RequestError, now
from serving.http.request_fields import RequestFields
from serving.http.session_answers import HeldSession, SessionEvents
from serving.http.streams import AnswerInParts, EventSource, chunks_of, sse

BODY_WITHIN_S = 60.0  # that a body may take to arrive

Fields = TypeVar("Fields", bound=BaseModel)


class WholeAnswer(AnswerInParts, Protocol):
    def take(self, index: int, event: Event) -> None: ...
    def whole(self) -> BaseModel: ...


class Service:
    def __init__(self, engine_thread: EngineThread, *, model_name: str, options: ServerOptions):
        self.engine_thread, self.model_name, self.options = engine_thread, model_name, options
        self._created = now()
        self._sessions: Sessions | None = None

    @property
    def engine(self) -> Engine:
        """Raises EngineUnavailable."""
        return self.engine_thread.engine

    async def read(
        self, request: Request, schema: type[Fields], *, optional: bool = False
    ) -> Fields:
        """The body. optional: none at all is an empty object. Raises RequestError: 400, 404 for
        another model, 408, 413."""
        if optional and without_body(request):
            return schema()
        most = int(self.options.max_body_mib * MIB)
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await read_json(request, schema, max_bytes=most)
        except TimeoutError:
            message = f"the body was not here after {BODY_WITHIN_S:g} s: send it faster"
            raise RequestError(408, message, code="timeout") from None
        name = getattr(body, "model", None)
        if name is not None:
            self.check_model(name)
        return body

    def check_model(self, name: str) -> None:
        """Raises RequestError: 404."""
        names = self.model_names
        if name not in names:
            listed = ", ".join(map(repr, names))
            message = f"there is no model {name!r} here; this server has {listed}"
            raise RequestError(404, message, param="model", code="model_not_found")

    @property
    def model_names(self) -> list[str]:
        """The base's, and those of adapters."""
        adapters = self._adapters
        return [self.model_name, *([] if adapters is None else adapters.names)]

    @property
    def _adapters(self) -> Adapters | None:
        return self.engine.adapters if self.engine_thread.status == "ready" else None

    def model_card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self._created, "owned_by": "griffin-lm"}
        if name != self.model_name:
            assert self._adapters is not None
            card |= {"root": self._adapters.get(name).path, "parent": self.model_name}
        return card

    def check_capacity(self, body: RequestFields, prompts: int, field: str) -> None:
        capacity = self.engine_thread.capacity
        if body.drawn * prompts > capacity:
            name = "n" if body.drawn == body.n else "best_of"
            message = (
                f"{prompts} prompts x {name}={body.drawn} is more than the {capacity} sequences "
                "this server holds: send fewer at once"
            )
            param = name if body.drawn > 1 else field
            raise RequestError(400, message, param=param, code="invalid_value")

    def ask(self, request: Request, questions: Questions) -> events.Events:
        """Raises QueueFull, EngineUnavailable."""
        return events.Events(
            self.engine_thread,
            questions,
            request,
            model=questions.body.model or self.model_name,
            timeout_s=self.options.timeout_s,
            most_behind=events.MOST_BEHIND if questions.body.stream else None,
        )

    @property
    def sessions(self) -> Sessions:
        """Raises EngineUnavailable, UserError: there are none here."""
        if self.options.sessions is None:
            message = "this server keeps no sessions: have it started with --sessions DIR"
            raise UserError(message, field="session")
        if self._sessions is None:
            self._sessions = self._open_sessions(self.options.sessions)
        return self._sessions

    def adaptation_updates(self) -> int:
        """Of all sessions since the server began."""
        adaptations = None if self._sessions is None else self._sessions.adaptations
        return 0 if adaptations is None else adaptations.updates

    def _open_sessions(self, folder: Path) -> Sessions:
        engine, options = self.engine, self.options
        adaptations = None
        if options.adapting:
            assert engine.adapters is not None
            adaptations = Adaptations(
                folder, engine.lm, engine.adapters, most=options.adapting, choices=options.dynamic
            )
        return Sessions(folder, engine.lm, adaptations=adaptations)

    async def answered(
        self,
        request: Request,
        questions: Questions,
        answer: WholeAnswer,
        *,
        held: HeldSession | None = None,
    ) -> Response:
        """The answer as JSON, or as a stream where one is asked for. held: a session that is to
        move with it, and is released here once the engine has taken the request."""
        told: EventSource = self.ask(request, questions)
        if held is not None:
            told = SessionEvents(told, held, questions)
        body = questions.body
        if body.stream:
            return sse(chunks_of(told, answer, body))
        async for index, event in told:
            answer.take(index, event)
        return json_response(answer.whole())


def json_response(value: BaseModel) -> Response:
    body = value.model_dump_json(exclude_unset=True)
    return Response(body, media_type="application/json")
