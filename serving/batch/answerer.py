# SPDX-License-Identifier: Apache-2.0
"""Lines of a batch, answered by one engine as the server would answer them.

Whoever runs a batch needs no more than `room`, `busy`, `take` and `step` of it, so that several
engines, here or on other machines, can stand behind these four.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from eval.options import identity
from recurrentgemma.errors import UserError
from serving.batch.lines import Line
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.http.answers import Answer, Questions, read_questions
from serving.http.body import parse
from serving.http.chat_answers import ChatAnswer, read_chat
from serving.http.chat_protocol import ChatRequest
from serving.http.errors import told
from serving.http.protocol import CompletionRequest, RequestError
from serving.http.request_fields import RequestFields

_WAITING = 2  # sequences in the engine for each slot: a slot that ends never waits for the next


class Response(NamedTuple):
    """What a line is answered with: an HTTP status, and OpenAI's answer or error."""

    line: Line
    status_code: int
    body: dict[str, Any]

    def record(self, number: str) -> dict[str, Any]:
        """A line of OpenAI's output, or of its file of errors. number: of the request."""
        response = {"status_code": self.status_code, "request_id": number, "body": self.body}
        return {
            "id": f"batch_req_{number}",
            "custom_id": self.line.custom_id,
            "response": response,
            "error": None,
        }


class Answerer:
    """Answers with `engine`, which nobody else steps. model: its name, that lines may give."""

    def __init__(self, engine: Engine, *, model: str):
        self._engine, self._model = engine, model
        self._identity: Mapping[str, Any] | None = None
        self._live: dict[int, tuple[_Asked, int]] = {}  # engine's id -> line, which of its choices
        self._refused: list[Response] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells the engine's model from another one."""
        if self._identity is None:
            self._identity = identity(self._engine.lm)
        return self._identity

    @property
    def room(self) -> bool:
        """Whether another line would be of use now."""
        return len(self._live) < _WAITING * self._engine.slots

    @property
    def busy(self) -> bool:
        return bool(self._live or self._refused)

    def take(self, line: Line) -> None:
        """Begin to answer a line."""
        try:
            asked = self._read(line)
        except (RequestError, UserError) as error:
            refusal = told(error)
            self._refused.append(Response(line, refusal.status, refusal.body.model_dump()))
            return
        index = 0
        for _, alike in itertools.groupby(asked.requests, key=lambda request: id(request.prompt)):
            for id_ in self._engine.submit_all(list(alike)):
                self._live[id_] = (asked, index)
                index += 1

    def step(self) -> list[Response]:
        """Go on for a while; the lines that are answered now."""
        answered, self._refused = self._refused, []
        events = self._engine.step() if self._live else []
        for event in events:
            asked, index = self._live[event.request_id]
            if event.error is None:
                asked.answer.take(index, event)
            else:
                asked.failure = told(event.error)
            if event.finish_reason is None:
                continue
            del self._live[event.request_id]
            asked.unfinished -= 1
            if not asked.unfinished and asked.failure is not None:
                refusal = asked.failure
                answered.append(Response(asked.line, refusal.status, refusal.body.model_dump()))
            elif not asked.unfinished:
                body = asked.answer.whole().model_dump_json(exclude_unset=True)
                answered.append(Response(asked.line, 200, json.loads(body)))
        return answered

    def _read(self, line: Line) -> "_Asked":
        """Raises RequestError, UserError."""
        content = json.dumps(line.body).encode()
        answer: Answer | ChatAnswer
        if line.url == "/v1/chat/completions":
            questions = read_chat(self._checked(parse(content, ChatRequest)), self._engine)
            answer = ChatAnswer(questions, self._engine, model=self._model)
        else:
            body = self._checked(parse(content, CompletionRequest))
            questions = read_questions(body, self._engine)
            answer = Answer(questions, self._engine, model=self._model)
        return _Asked(line, questions, answer)

    def _checked(self, body: Any) -> Any:
        assert isinstance(body, RequestFields)
        if body.stream:
            message = "an answer in a file is no stream: leave 'stream' out"
            raise RequestError(400, message, param="stream", code="invalid_value")
        if body.session is not None:
            raise UserError("a batch keeps no sessions: leave 'session' out", field="session")
        adapters = self._engine.adapters
        if body.model == self._model:
            return body.model_copy(update={"model": None})  # the base, and no adapter
        if body.model is not None and (adapters is None or body.model not in adapters.names):
            message = f"there is no model {body.model!r} here; this batch has {self._model!r}"
            raise RequestError(404, message, param="model", code="model_not_found")
        return body


class _Asked:
    """A line that is being answered."""

    def __init__(self, line: Line, questions: Questions, answer: Answer | ChatAnswer):
        self.line, self.answer = line, answer
        self.requests: tuple[GenerationRequest, ...] = questions.requests
        self.unfinished = len(self.requests)
        self.failure: RequestError | None = None  # of one of its choices
