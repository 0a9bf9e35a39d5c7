# SPDX-License-Identifier: Apache-2.0
"""OpenAI's `/v1/completions` as pydantic models: what may be asked, what is answered, and how an
error looks.

Log-probabilities are the model's own, before temperature and before any token is filtered out.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from serving.http.field_errors import field_message, json_kind
from serving.http.request_fields import INT32_MAX, MAX_LOGPROBS, RequestFields, invalid

_PROMPT_FORMS = "a string, a list of strings, a list of token ids or a list of lists of token ids"
_EMPTY = f"the prompt is empty: give at least one token, as {_PROMPT_FORMS}"


class CompletionRequest(RequestFields):
    """A request's body. `prompt` is kept as a list of prompts, each a text or token ids."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = RequestFields.without_effect | {
        "add_special_tokens": (None, True),
        "suffix": (None, ""),
    }

    prompt: list[str | list[int]]
    max_tokens: int = Field(16, ge=0, le=INT32_MAX)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=128)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def texts(self) -> Any:
        return self.prompt

    @property
    def drawn(self) -> int:
        return self.n if self.best_of is None else self.best_of

    @model_validator(mode="after")
    def _best_of_more(self) -> "CompletionRequest":
        if self.drawn < self.n:
            raise invalid(f"'best_of' is {self.drawn}: expected at least n, {self.n}", "best_of")
        if self.drawn > self.n and self.stream:
            raise invalid(
                "'best_of' above 'n' cannot be streamed: leave one of them out", "best_of"
            )
        return self

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, prompt: Any) -> list[str | list[int]]:
        if isinstance(prompt, str):
            prompt = [prompt]
        if not isinstance(prompt, list):
            raise invalid(f"expected {_PROMPT_FORMS}, got {json_kind(prompt)}")
        if not prompt:
            raise invalid(_EMPTY)
        if all(_is_token(item) for item in prompt):
            return [prompt]
        texts = all(isinstance(item, str) for item in prompt)
        rows = all(isinstance(item, list) and all(map(_is_token, item)) for item in prompt)
        if texts or rows:
            if not all(prompt):
                raise invalid(_EMPTY)
            return prompt
        kinds = sorted({json_kind(item) for item in prompt})
        raise invalid(f"expected {_PROMPT_FORMS}, got a list with {', '.join(kinds)}")


class Logprobs(BaseModel):
    """The legacy schema: one entry a token; the first token of an echoed prompt has none (null)."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]  # where the token begins in the choice's text, in characters


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    token_ids: list[int] | None = None  # with return_token_ids, or when there is no tokenizer
    prompt_token_ids: list[int] | None = None  # with return_token_ids, in the first chunk


class PromptTokensDetails(BaseModel):
    cached_tokens: int  # that were not read anew


class Usage(BaseModel):
    """Every prompt counts once, however many choices it has; a token that ends an answer counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Completion(BaseModel):
    """A whole answer, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    error: ErrorDetail


class RequestError(Exception):
    """A request that is answered with an error: its HTTP status and what to say."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ):
        message, param = _shortened(message, 2000), param and _shortened(param, 100)
        super().__init__(message)
        self.status = status
        kind = {429: "rate_limit_error"}.get(
            status, "invalid_request_error" if status < 500 else "server_error"
        )
        self.body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def error_from_validation(errors: Sequence[Any]) -> RequestError:
    """Pydantic's list of errors as one 400: the first error, with the name of its field."""
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    path = [str(part) for part in first["loc"]]
    param = context.get("param") or ".".join(path) or None
    if kind == "missing":
        what = f"'{param}' is missing" if param else "the request's body is missing"
        return RequestError(400, what, param=param, code="missing_required_parameter")
    if "error" in context:
        raise context["error"]  # a ValueError that no validator of ours has raised: a bug
    no_field = kind == "invalid_value" and param is None  # the message is of the whole body
    message = first["msg"] if "param" in context or no_field else field_message(first, param)
    known = ("unknown_parameter", "unsupported_parameter")
    code = kind if kind in known else "invalid_value"
    code = "unknown_parameter" if kind == "extra_forbidden" else code
    return RequestError(400, message, param=param, code=code)


def new_completion_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
