# SPDX-License-Identifier: Apache-2.0
"""From a chat's request to the engine's requests, and from the engine's events to its answer.

The messages become tokens as in `LanguageModel.chat`; from there on a chat is a completion. A whole
answer is its streamed deltas put together.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from recurrentgemma.errors import TemplateError, UserError
from recurrentgemma.generation.reading import Point
from recurrentgemma.text.chat import ChatFormat, chat_format
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.engine import Engine
from serving.engine.request import Event, GenerationRequest, TokenScore
from serving.features.adapters import ServedAdapter, chosen
from serving.http.answers import Counts, Questions, asked_of, sampling_of
from serving.http.chat_protocol import (
    MAX_TOKENS,
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ContentLogprob,
    Delta,
    DeltaChoice,
    TokenLogprob,
    new_chat_id,
)
from serving.http.protocol import now
from serving.http.structure import constraint_of
from serving.http.tool_protocol import ToolCall, ToolCallDelta
from serving.http.tools import CallReader, form_of, tool_constraint


def read_chat(body: ChatRequest, engine: Engine) -> Questions:
    """Write the messages as tokens, and check. Choice k takes `seed + k`.

    Raises UserError, which names the field: messages that the chat format refuses, no chat format,
    no tokenizer, a prompt that is too long, alone or together with its answer. TemplateError: the
    server's chat template has a mistake.
    """
    return read_turn(body, engine, lambda tokenizer: written(body, chat_format(tokenizer)))


def read_turn(
    body: ChatRequest,
    engine: Engine,
    write: Callable[[Tokenizer], list[int]],
    *,
    before: Point | None = None,
    adapter: ServedAdapter | None = None,
) -> Questions:
    """As read_chat, of messages that `write` writes as tokens, after a session's, which may have
    learned an adapter."""
    tokenizer = engine.lm.tokenizer
    if tokenizer is None:
        raise UserError(
            "this checkpoint has no tokenizer, so it cannot read messages: send token ids to "
            "/v1/completions",
            field="messages",
        )
    ids = write(tokenizer)
    use = body.tool_use
    constraint = constraint_of(body, engine) if use is None else tool_constraint(use, engine)
    try:
        tokens_T = engine.tokens(ids)
        most = body.most_tokens
        if most is None:
            most, config = MAX_TOKENS, engine.lm.config
            if "global_attention" in config.block_types:
                seen = 0 if before is None else before.count
                most = max(1, min(most, config.context_length - seen - len(ids) + 1))
        request = GenerationRequest(
            prompt=tokens_T,
            sampling=sampling_of(body, max_tokens=most),
            logprobs=body.top_logprobs if body.logprobs else None,
            adapter=adapter or chosen(engine.adapters, body.model),
            constraint=constraint,
            before=before,
        )
        engine.check(request)
    except UserError as error:
        older = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
        fields = {"prompt": "messages", "max_tokens": older}
        raise UserError(str(error), field=fields.get(error.field or "", error.field)) from None
    requests = asked_of(request, body)
    return Questions(body=body, requests=requests, echoes=("",) * len(requests))


def written(body: ChatRequest, chats: ChatFormat) -> list[int]:
    """The tokens of the messages. A template that fails is to blame for it where it fails without
    all that is beside texts in the request, too."""
    given: dict[str, Any] = {
        "messages": body.messages,
        "tools": body.shown_tools,
        "variables": body.chat_template_kwargs,
    }
    goes_on = body.continue_final_message
    try:
        return chats.encode(**given, continues=goes_on)
    except TemplateError as error:
        chats.check()
        if error.too_much:
            raise UserError(str(error), field="messages") from None
        texts = [{k: m[k] for k in ("role", "content") if k in m} for m in body.messages]
        plainer: dict[str, dict[str, Any]] = {
            "messages": given | {"messages": texts},
            "tools": given | {"tools": None},
            "chat_template_kwargs": given | {"variables": None},
        }
        for field, without in plainer.items():
            try:
                chats.encode(**without, continues=goes_on)
            except TemplateError:
                continue
            except UserError:
                pass  # whatever is refused then, the template does not fail
            raise UserError(str(error), field=field) from None
        raise


class ChatAnswer:
    """Turns events into chunks, and counts. One for each HTTP request."""

    def __init__(self, questions: Questions, engine: Engine, *, model: str):
        self._questions, self._engine = questions, engine
        self._head: dict[str, Any] = {"id": new_chat_id(), "created": now(), "model": model}
        self._begun = [False] * len(questions.requests)
        self._counts = Counts(questions)
        self._parts: list[list[DeltaChoice]] = [[] for _ in questions.requests]
        tokenizer, body = engine.lm.tokenizer, questions.body
        self._stops = tokenizer.stop_ids if tokenizer else ()
        self._readers: list[CallReader] = []
        self._called = [0] * len(questions.requests)
        use = body.tool_use if isinstance(body, ChatRequest) else None
        if use is not None and tokenizer is not None:
            self._readers = [CallReader(use, form_of(tokenizer)) for _ in questions.requests]

    def take(self, index: int, event: Event) -> None:
        """Keep what this event adds to choice `index`."""
        self._parts[index].append(self._delta(index, event))

    def chunks(self, index: int, event: Event, extra: dict[str, Any]) -> list[BaseModel]:
        """What of a stream this event makes: the role before anything else."""
        choices = [] if self._begun[index] else [self._first(index)]
        self._begun[index] = True
        choices.append(self._delta(index, event))
        return [self._chunk([choice], extra) for choice in choices]

    def last(self) -> BaseModel:
        """The last chunk of a stream whose usage is asked for."""
        return self._chunk([], {"usage": self._counts.usage()})

    def whole(self) -> BaseModel:
        """The answer, once every choice has ended."""
        answer = ChatCompletion(
            **self._head,
            object="chat.completion",
            choices=[self._joined(index, parts) for index, parts in enumerate(self._parts)],
            usage=self._counts.usage(),
        )
        if self._questions.body.return_token_ids:
            answer.prompt_token_ids = list(map(int, self._questions.requests[0].prompt))
        return answer

    def _chunk(self, choices: list[DeltaChoice], extra: dict[str, Any]) -> BaseModel:
        return ChatChunk(**self._head, object="chat.completion.chunk", choices=choices, **extra)

    def _first(self, index: int) -> DeltaChoice:
        delta = Delta(role="assistant", content="")
        return DeltaChoice(index=index, delta=delta, logprobs=None, finish_reason=None)

    def _delta(self, index: int, event: Event) -> DeltaChoice:
        self._counts.take(index, event)
        body = self._questions.body
        text, calls = event.text, []
        if self._readers:
            ended = event.finish_reason is not None
            text, calls = self._readers[index].push(text, ended=ended)
        delta = Delta() if (event.finish_reason or calls) and not text else Delta(content=text)
        if calls:
            delta.tool_calls = [
                ToolCallDelta(index=number, **call.model_dump())
                for number, call in enumerate(calls, self._called[index])
            ]
            self._called[index] += len(calls)
        choice = DeltaChoice(index=index, delta=delta, logprobs=None, finish_reason=None)
        if isinstance(body, ChatRequest) and body.logprobs:
            told = [score for score in event.scores if score.token_id not in self._stops]
            choice.logprobs = ChatLogprobs(content=[self._logprob(s) for s in told], refusal=None)
        if body.return_token_ids:
            choice.token_ids = list(event.token_ids)
        choice.finish_reason = event.finish_reason
        if event.finish_reason == "stop" and self._called[index]:
            choice.finish_reason = "tool_calls"
        return choice

    def _logprob(self, score: TokenScore) -> ContentLogprob:
        assert score.logprob is not None  # of an answer's token
        token = self._named(score.token_id, score.logprob)
        top = [self._named(id, logprob) for id, logprob in score.top]
        return ContentLogprob(**token.model_dump(), top_logprobs=top)

    def _named(self, id: int, logprob: float) -> TokenLogprob:
        name = self._engine.token_name(id)
        raw = None if name == f"token_id:{id}" else list(name.encode())
        return TokenLogprob(token=name, logprob=logprob, bytes=raw)

    def _joined(self, index: int, parts: list[DeltaChoice]) -> ChatChoice:
        text = "".join(part.delta.content or "" for part in parts)
        message = AnswerMessage(role="assistant", content=text, refusal=None)
        calls = [call for part in parts for call in part.delta.tool_calls or ()]
        if calls:
            message.content = text or None
            message.tool_calls = [ToolCall(**call.model_dump(exclude={"index"})) for call in calls]
        choice = ChatChoice(index=index, message=message, logprobs=None, finish_reason=None)
        if parts[0].logprobs is not None:
            content = [one for part in parts if part.logprobs for one in part.logprobs.content]
            choice.logprobs = ChatLogprobs(content=content, refusal=None)
        if self._questions.body.return_token_ids:
            choice.token_ids = [id for part in parts for id in part.token_ids or ()]
        choice.finish_reason = parts[-1].finish_reason
        return choice
