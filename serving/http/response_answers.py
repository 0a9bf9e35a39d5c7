# SPDX-License-Identifier: Apache-2.0
"""From the engine's events to a response, and to the events of a streamed one.

A stream tells each item from its beginning to its end: added, parts, done. A whole response is the
last thing that its stream tells.
"""

from collections.abc import Iterator
from typing import Any

from serving.engine.engine import Engine
from serving.engine.request import Event
from serving.http.answers import Counts, Questions
from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import ErrorDetail, now
from serving.http.response_protocol import (
    OutputCall,
    OutputMessage,
    OutputText,
    Response,
    ResponsesRequest,
    ResponseUsage,
    new_id,
)
from serving.http.tool_protocol import ToolCall
from serving.http.tools import CallReader, form_of

Told = dict[str, Any]


class ResponseAnswer:
    """One for each request, which has one answer."""

    def __init__(self, body: ResponsesRequest, questions: Questions, engine: Engine, *, model: str):
        chat = questions.body
        assert isinstance(chat, ChatRequest)
        self._counts = Counts(questions)
        self._number = 0
        self._text = ""
        self._message: OutputMessage | None = None
        self._calls: list[ToolCall] = []
        tokenizer, use = engine.lm.tokenizer, chat.tool_use
        self._reader = None
        if use is not None and tokenizer is not None:
            self._reader = CallReader(use, form_of(tokenizer))
        self.response = _begun(body, model)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What a next response has before it of this one's output."""
        content = self._text or None
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if self._calls:
            message["tool_calls"] = [call.model_dump() for call in self._calls]
        return [message | ({} if content or self._calls else {"content": ""})]

    def begin(self) -> Iterator[Told]:
        yield self._told("response.created", response=self._shown())
        yield self._told("response.in_progress", response=self._shown())

    def take(self, event: Event) -> Iterator[Told]:
        """What an event of the engine's makes of the stream."""
        self._counts.take(0, event)
        text, calls = event.text, []
        ended = event.finish_reason is not None
        if self._reader is not None:
            text, calls = self._reader.push(text, ended=ended)
        if text:
            yield from self._say(text)
        for call in calls:
            yield from self._end_message("completed")
            yield from self._call(call)
        if ended:
            yield from self._end(cut=event.finish_reason == "length")

    def fail(self, error: ErrorDetail) -> Iterator[Told]:
        self.response.status = "failed"
        self.response.error = {"code": error.code or "server_error", "message": error.message}
        yield self._told("response.failed", response=self._shown())

    def _say(self, text: str) -> Iterator[Told]:
        if self._message is None:
            part = OutputText(text="", type="output_text", annotations=[], logprobs=[])
            self._message = OutputMessage(
                id=new_id("msg"), type="message", status="in_progress", role="assistant", content=[]
            )
            self.response.output.append(self._message)
            item = self._message.model_dump()
            yield self._told("response.output_item.added", output_index=self._place, item=item)
            self._message.content.append(part)
            yield self._in_message("response.content_part.added", part=part.model_dump())
        self._text += text
        self._message.content[0].text += text
        if text:
            yield self._in_message("response.output_text.delta", delta=text, logprobs=[])

    def _end_message(self, status: Any) -> Iterator[Told]:
        if self._message is None:
            return
        part = self._message.content[0]
        self._message.status = status
        yield self._in_message("response.output_text.done", text=part.text, logprobs=[])
        yield self._in_message("response.content_part.done", part=part.model_dump())
        item = self._message.model_dump()
        yield self._told("response.output_item.done", output_index=self._place, item=item)
        self._message = None

    def _call(self, call: ToolCall) -> Iterator[Told]:
        self._calls.append(call)
        assert call.id is not None
        assert call.function.name is not None
        arguments = call.function.arguments
        item = OutputCall(
            id=new_id("fc"),
            type="function_call",
            status="in_progress",
            call_id=call.id,
            name=call.function.name,
            arguments="",
        )
        self.response.output.append(item)
        place: Told = {"output_index": self._place}
        yield self._told("response.output_item.added", **place, item=item.model_dump())
        place["item_id"] = item.id
        yield self._told("response.function_call_arguments.delta", **place, delta=arguments)
        item.arguments, item.status = arguments, "completed"
        kind = "response.function_call_arguments.done"
        yield self._told(kind, **place, name=item.name, arguments=arguments)
        del place["item_id"]
        yield self._told("response.output_item.done", **place, item=item.model_dump())

    def _end(self, *, cut: bool) -> Iterator[Told]:
        if not self.response.output:
            yield from self._say("")  # an answer has an item
        yield from self._end_message("incomplete" if cut else "completed")
        usage, response = self._counts.usage(), self.response
        response.usage = ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=usage.prompt_tokens_details.model_dump(),
            output_tokens=usage.completion_tokens,
            output_tokens_details={"reasoning_tokens": 0},
            total_tokens=usage.total_tokens,
        )
        response.status = "incomplete" if cut else "completed"
        if cut:
            response.incomplete_details = {"reason": "max_output_tokens"}
        yield self._told(f"response.{response.status}", response=self._shown())

    @property
    def _place(self) -> int:
        return len(self.response.output) - 1

    def _in_message(self, kind: str, **fields: Any) -> Told:
        assert self._message is not None
        place = {"item_id": self._message.id, "output_index": self._place, "content_index": 0}
        return self._told(kind, **place, **fields)

    def _told(self, kind: str, **fields: Any) -> Told:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _shown(self) -> dict[str, Any]:
        return self.response.model_dump()


def _begun(body: ResponsesRequest, model: str) -> Response:
    text = {"format": {"type": "text"}}
    if body.text is not None and body.text.format is not None:
        text = {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)}
    choice = body.tool_choice or "auto"
    return Response(
        id=new_id("resp"),
        object="response",
        created_at=now(),
        status="in_progress",
        error=None,
        incomplete_details=None,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        store=body.stored,
        temperature=body.temperature,
        text=text,
        tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
        tools=[tool.model_dump() for tool in body.tools or ()],
        top_p=body.top_p,
        truncation="disabled",
        usage=None,
    )
