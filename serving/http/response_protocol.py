# SPDX-License-Identifier: Apache-2.0
"""OpenAI's `/v1/responses` as pydantic models: what may be asked, and what is answered."""

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.http.request_fields import INT32_MAX, STRICT, RequestFields, invalid

MAX_TOKENS = 2048  # of an answer, where the request says nothing


class TextFormat(BaseModel):
    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _belong_together(self) -> "TextFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise invalid("'schema' is missing: 'type': 'json_schema' needs it")
        if self.type != "json_schema" and self.json_schema is not None:
            raise invalid(f"'schema' belongs to 'type': 'json_schema', and this is {self.type}")
        return self


class TextOptions(BaseModel):
    model_config = STRICT

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None  # at which nothing changes


class FunctionTool(BaseModel):
    """A tool in the flat form that responses have."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def of_chat(self) -> dict[str, Any]:
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class FunctionChoice(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    name: str


class ResponsesRequest(RequestFields):
    """A request's body."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = RequestFields.without_effect | {
        "background": (None, False),
        "conversation": (None,),
        "include": (None, []),
        "max_tool_calls": (None,),
        "n": (None, 1),
        "prompt": (None,),
        "reasoning": (None, {}),
        "response_format": (None,),
        "return_token_ids": (None, False),
        "service_tier": (None, "auto", "default"),
        "session": (None,),
        "top_logprobs": (None, 0),
        "truncation": (None, "disabled"),
    }

    input: str | list[dict[str, Any]]
    instructions: str | None = None  # a system message, of this response alone
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _a_choice(cls, choice: Any) -> Any:
        if not isinstance(choice, dict) and choice not in ("auto", "none", "required"):
            raise invalid(
                'expected "auto", "none", "required" or {"type": "function", "name": ...}'
            )
        return FunctionChoice.model_validate(choice) if isinstance(choice, dict) else choice

    @field_validator("input", mode="before")
    @classmethod
    def _something(cls, given: Any) -> Any:
        items = isinstance(given, list) and all(isinstance(item, dict) for item in given)
        if not given or not (isinstance(given, str) or items):
            raise invalid("expected a text, or a list of items with one at least")
        return given

    @property
    def texts(self) -> Any:
        return self.input

    @property
    def stored(self) -> bool:
        return self.store is not False

    def as_chat(self, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The body of the chat that answers this. before: the messages of earlier responses."""
        of_responses = {*ResponsesRequest.model_fields} - {*RequestFields.model_fields}
        chat = self.model_dump(exclude_unset=True, exclude=of_responses, by_alias=True)
        if self.logit_bias:
            chat["logit_bias"] = {str(id): bias for id, bias in self.logit_bias.items()}
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        chat["messages"] = [*system, *before, *messages_of(self.input)]
        chat["max_completion_tokens"] = self.max_output_tokens or MAX_TOKENS
        form = None if self.text is None else self.text.format
        if form is not None:
            asked: dict[str, Any] = {"type": form.type}
            if form.json_schema is not None:
                asked["json_schema"] = {"name": form.name or "x", "schema": form.json_schema}
            chat["response_format"] = asked
        if self.tools:
            chat["tools"] = [tool.of_chat() for tool in self.tools]
            chat["parallel_tool_calls"] = self.parallel_tool_calls
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice is not None:
            chat["tool_choice"] = choice
        return chat


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


def messages_of(items: str | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as a chat's messages: calls belong to the assistant's message before them. Whether a
    message is one is found out where it is written."""
    return [message for _, message in _numbered_messages(items)]


def field_of_input(items: str | Sequence[dict[str, Any]], field: str) -> str:
    """field: of `messages_of(items)`, such as 0.content. What a request calls it."""
    number, _, member = field.partition(".")
    if isinstance(items, str):
        return "input"
    place = _numbered_messages(items)[int(number)][0]
    is_message = items[place].get("type", "message") == "message"
    return f"input.{place}.{member}" if member and is_message else f"input.{place}"


def _numbered_messages(items: str | Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Each message with the number of the item that it began with."""
    if isinstance(items, str):
        return [(0, {"role": "user", "content": items})]
    messages: list[tuple[int, dict[str, Any]]] = []
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            role, content = item.get("role"), item.get("content")
            messages.append((number, {"role": role, "content": _content(content, number)}))
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            began, last = messages[-1] if messages else (number, {})
            if last.get("role") == "assistant":
                merged = {**last, "tool_calls": [*last.get("tool_calls", ()), call]}
                messages[-1] = (began, merged)
            else:
                called = {"role": "assistant", "content": None, "tool_calls": [call]}
                messages.append((number, called))
        elif kind == "function_call_output":
            content = _content(item.get("output"), number)
            told = {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
            messages.append((number, told))
        else:
            raise invalid(
                f"an item of type {str(kind)[:50]!r}: expected message, function_call or "
                "function_call_output",
                f"input.{number}.type",
            )
    return messages


def _content(content: Any, number: int) -> Any:
    """Parts of text by the name that chats have for them."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text", "text"):
            message = f"a part of type {str(kind)[:50]!r}: this model reads text only"
            raise invalid(message, f"input.{number}.content")
        parts.append({"type": "text", "text": part.get("text")})
    return parts


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
