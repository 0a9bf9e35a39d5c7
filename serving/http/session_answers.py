# SPDX-License-Identifier: Apache-2.0
"""Completions and chats that go on with a session: what it has read stands before the prompt.

The session moves when the answer has ended, before its last event is told. An answer that is given
up leaves it where it was.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import check_text
from recurrentgemma.text.chat_messages import checked_messages
from serving.engine.engine import Engine
from serving.engine.request import Event
from serving.features.adapters import chosen
from serving.features.sessions import Lease, Sessions, held_ids, prompt_after, turn_after
from serving.http.answers import Questions, read_prompt
from serving.http.chat_answers import read_turn
from serving.http.chat_protocol import ChatRequest
from serving.http.events import Events
from serving.http.protocol import CompletionRequest
from serving.http.request_fields import RequestFields


class HeldSession:
    """A session that one request goes on with. `release` it whatever happens; twice is once."""

    def __init__(self, lease: Lease, release: Callable[[], Any]):
        self.lease = lease
        self.messages: tuple[tuple[str, str], ...] | None = None  # of a chat, with what is asked
        self._release = release
        self._writing = self._released = False

    @classmethod
    async def of(cls, sessions: Sessions, name: str) -> "HeldSession":
        """Raises SessionBusy, SessionDamaged, UserError."""
        stack = contextlib.ExitStack()
        lease = await run_in_threadpool(stack.enter_context, sessions.lease(name))
        return cls(lease, stack.close)

    @contextlib.contextmanager
    def until_taken(self) -> Iterator[None]:
        """Release it where something goes wrong before the engine has taken the request; after
        that its events do."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        self._released = True
        if not self._writing:  # else whoever writes does it
            self._release()

    async def moved(self, questions: Questions, tokens: list[int], text: str, last: Event) -> None:
        """The answer has ended: the session has read it."""
        messages = self.lease.point.messages
        if self.messages is not None:
            messages = (*self.messages, ("assistant", text))
        cut = last.finish_reason == "stop" and len(tokens) < last.num_generated  # by a stop string
        if last.finish_reason == "stop" and not cut:
            tokens = tokens[:-1]  # a token that ends an answer is not part of it
        assert last.state is not None
        self._writing = True
        try:
            await run_in_threadpool(
                self.lease.answered,
                questions.requests[0],
                last.state,
                tokens,
                text=text if cut else None,
                messages=messages,
            )
        finally:
            self._writing = False
            if self._released:
                self._release()


class SessionEvents:
    """The events of a request that goes on with a session, which has moved before the last."""

    def __init__(self, events: Events, held: HeldSession, questions: Questions):
        self._events, self._held, self._questions = events, held, questions
        events.on_over(held.release)

    def close(self) -> None:
        self._events.close()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        tokens: list[int] = []
        text = ""
        async for index, event in self._events:
            tokens += event.token_ids
            text += event.text
            if event.finish_reason is not None:
                await self._held.moved(self._questions, tokens, text, event)
            yield index, event


def read_completion(body: CompletionRequest, engine: Engine, held: HeldSession) -> Questions:
    """As answers.read_questions. Raises UserError."""
    if len(body.prompt) != 1:
        raise UserError("a session goes on one way: send one prompt", field="prompt")
    _base_alone(body, engine)
    if body.echo:
        raise UserError("a session does not say what it has read: leave it out", field="echo")
    (prompt,), point, tokenizer = body.prompt, held.lease.point, engine.lm.tokenizer
    if isinstance(prompt, str) and tokenizer is not None:
        check_text(prompt)
        prompt = prompt_after(tokenizer, point, prompt)
    elif not isinstance(prompt, str):
        prompt = [*held_ids(tokenizer, point), *prompt]
    return read_prompt(body, engine, prompt, before=point, adapter=held.lease.adapter)


def read_chat_turn(body: ChatRequest, engine: Engine, held: HeldSession) -> Questions:
    """The messages are those that come after what the session holds. Raises UserError."""
    _base_alone(body, engine)
    for field in ("tools", "chat_template_kwargs", "continue_final_message"):
        if getattr(body, field):
            raise UserError(f"{field}: a session's chat has none; leave it out", field=field)
    point, messages = held.lease.point, checked_messages(body.messages)
    for number, message in enumerate(messages):
        if message.keys() - {"role", "content"}:
            raise UserError(
                "a session keeps a message's role and content, and no other field",
                field=f"messages.{number}",
            )
    held.messages = (*point.messages, *((m["role"], m["content"]) for m in messages))
    return read_turn(
        body,
        engine,
        lambda tokenizer: turn_after(tokenizer, point, messages),
        before=point,
        adapter=held.lease.adapter,
    )


def _base_alone(body: RequestFields, engine: Engine) -> None:
    """An adapter by name would have read the session otherwise."""
    if chosen(engine.adapters, body.model) is not None:
        raise UserError("a session is of the base model: leave the adapter out", field="model")
