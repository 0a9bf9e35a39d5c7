# SPDX-License-Identifier: Apache-2.0
"""OpenAI's `/v1/chat/completions` as pydantic models: what may be asked and what is answered.

Messages are checked where they are written as tokens (recurrentgemma/text/chat.py), which names
their fields. `chat_template_kwargs` and `continue_final_message` are vLLM's.
"""

import uuid
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from serving.http.protocol import Usage
from serving.http.request_fields import INT32_MAX, MAX_LOGPROBS, RequestFields, invalid
from serving.http.tool_protocol import NamedTool, Tool, ToolCall, ToolCallDelta
from serving.http.tools import ToolUse, tool_use

MAX_TOKENS = 2048  # of an answer, where the request says nothing


class ChatRequest(RequestFields):
    """A request's body."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = RequestFields.without_effect | {
        "add_special_tokens": (None, False),
        "audio": (None,),
        "best_of": (None,),
        "chat_template": (None,),
        "documents": (None, []),
        "echo": (None, False),
        "function_call": (None, "none", "auto"),
        "functions": (None, []),
        "modalities": (None, ["text"]),
        "prediction": (None,),
        "reasoning_effort": (None, "none"),
        "service_tier": (None, "auto", "default"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
    }

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = Field(None, ge=0, le=INT32_MAX)
    max_tokens: int | None = Field(None, ge=0, le=INT32_MAX)  # its older name
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def texts(self) -> Any:
        return self.messages

    @property
    def most_tokens(self) -> int | None:
        """Of an answer; None where the request does not say."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def shown_tools(self) -> list[dict[str, Any]] | None:
        """As the template sees them."""
        if self.tool_use is None:
            return None
        return [tool.model_dump(exclude_unset=True) for tool in self.tool_use.tools]

    @property
    def tool_use(self) -> ToolUse | None:
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _a_choice(cls, choice: Any) -> Any:
        named = isinstance(choice, dict) and isinstance(choice.get("function"), dict)
        if not named and choice not in ("auto", "none", "required"):
            raise invalid(
                'expected "auto", "none", "required" or {"type": "function", "function": {"name": '
                "...}}"
            )
        return NamedTool.model_validate(choice) if named else choice

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise invalid(
                f"'max_tokens' is {both[0]} and 'max_completion_tokens' {both[1]}: these are two "
                f"names of one thing; give one of them",
                "max_tokens",
            )
        self._check_tools()
        if self.top_logprobs and not self.logprobs:
            raise invalid("'top_logprobs' needs 'logprobs': true", "top_logprobs")
        if self.continue_final_message and "add_generation_prompt" in self.model_fields_set:
            if self.add_generation_prompt:
                raise invalid(
                    "'continue_final_message' goes on with the last message, and "
                    "'add_generation_prompt' begins another: give one of them",
                    "continue_final_message",
                )
        elif not self.add_generation_prompt and not self.continue_final_message:
            raise invalid(
                "'add_generation_prompt' can be false only with 'continue_final_message': true",
                "add_generation_prompt",
            )
        return self

    def _check_tools(self) -> None:
        called = isinstance(self.tool_choice, NamedTool) or self.tool_choice == "required"
        if called and not self.tools:
            raise invalid("'tool_choice' asks for a call, and there are no 'tools'", "tools")
        names = [tool.function.name for tool in self.tools or ()]
        if len(names) != len(set(names)):
            raise invalid("two tools have one name", "tools")
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            if name not in names:
                raise invalid(f"there is no tool {name!r} among: {', '.join(names)}", "tool_choice")
        formed = self.response_format is not None or self.structured_outputs is not None
        if formed and self.tool_use is not None:
            raise invalid(
                "an answer has one form: leave out 'tools' (or choose \"none\"), or what asks for "
                "another",
                "tools",
            )


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None  # null for a token without a text of its own


class ContentLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    content: list[ContentLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None  # null where there are calls alone
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    token_ids: list[int] | None = None  # with return_token_ids


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None  # with return_token_ids


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class DeltaChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    token_ids: list[int] | None = None  # with return_token_ids


class ChatChunk(BaseModel):
    """One chunk of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: Usage | None = None


def new_chat_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
