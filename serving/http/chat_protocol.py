# SPDX-License-Identifier: Apache-2.0
"""OpenAI's `/v1/chat/completions` as pydantic models: what may be asked and what is answered.

Messages are checked where they are written as tokens (recurrentgemma/text/chat.py), which names
their fields. `chat_template_kwargs` and `continue_final_message` are vLLM's.
"""

import uuid
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.http.protocol import Usage
from serving.http.request_fields import INT32_MAX, MAX_LOGPROBS, RequestFields, invalid

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
        "parallel_tool_calls": (None, True, False),
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
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None  # "none": the template sees no tools
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
        return None if self.tool_choice == "none" else self.tools

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _nothing_is_forced(cls, choice: Any) -> Any:
        if choice not in (None, "auto", "none"):
            raise PydanticCustomError(
                "unsupported_parameter",
                '\'{param}\' can be "auto" or "none": tools are shown to the model as text, and '
                "what it answers is text",
                {"param": "tool_choice"},
            )
        return choice

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise invalid(
                f"'max_tokens' is {both[0]} and 'max_completion_tokens' {both[1]}: these are two "
                f"names of one thing; give one of them",
                "max_tokens",
            )
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
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
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


class DeltaChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
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
