# SPDX-License-Identifier: Apache-2.0
"""OpenAI's `/v1/completions` as pydantic models: what may be asked, what is answered, and how an
error looks.

A field that changes the answer is honoured, or refused with a 400 that names it. `top_k` and
`min_p` are ours, beside OpenAI's fields, and so is `return_token_ids` (the name vLLM gave it). A
field of OpenAI's that this server does not do is accepted at the value at which it does nothing, so
that clients which always send it still work, and so are the fields that never change an answer.

Log-probabilities are the model's own, before temperature and before any token is filtered out.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

INT32_MAX = 2**31 - 1
MAX_LOGPROBS = 5
MAX_STOP_STRINGS = 128
MAX_STOP_LENGTH = 1000  # characters: each is looked for after every token

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_PROMPT_FORMS = "a string, a list of strings, a list of token ids or a list of lists of token ids"
_EMPTY = f"the prompt is empty: give at least one token, as {_PROMPT_FORMS}"

# Fields of OpenAI's, and of vLLM's clients, that would change an answer and that this server does
# not do, with the values at which they change nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "best_of": (None,),
    "frequency_penalty": (None, 0),
    "ignore_eos": (None, False),
    "logit_bias": (None, {}),
    "min_tokens": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "stop_token_ids": (None, []),
    "suffix": (None, ""),
    "use_beam_search": (None, False),
}


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool = False
    include_obfuscation: bool = False  # taken; chunks are never padded


class CompletionRequest(BaseModel):
    """A request's body. `prompt` is kept as a list of prompts, each a text or token ids."""

    model_config = _STRICT

    prompt: list[str | list[int]]
    model: str | None = None
    max_tokens: int = Field(16, ge=0, le=INT32_MAX)
    temperature: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=-1, le=INT32_MAX)  # 0 and -1: every token
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    n: int = Field(1, ge=1, le=128)
    stop: list[Annotated[str, Field(max_length=MAX_STOP_LENGTH)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS
    )
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool = False
    # Labels for OpenAI's own bookkeeping. They change no answer, and nothing is kept of them.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, body: Any) -> Any:
        """Refuse unknown fields by name; take null as "the default", as OpenAI does."""
        if not isinstance(body, dict):
            raise PydanticCustomError("invalid_value", "the body must be a JSON object")
        for name, value in body.items():
            if name in _WITHOUT_EFFECT:
                same_as_n = name == "best_of" and _equal(value, body.get("n") or 1)
                if not (same_as_n or any(_equal(value, v) for v in _WITHOUT_EFFECT[name])):
                    raise PydanticCustomError(
                        "unsupported_parameter",
                        "'{param}' is not supported by this server: leave it out",
                        {"param": name},
                    )
            elif name not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_parameter",
                    "unknown field '{param}'; the fields are: {fields}",
                    {"param": name, "fields": ", ".join(sorted(cls.model_fields))},
                )
        return {k: v for k, v in body.items() if v is not None and k not in _WITHOUT_EFFECT}

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, prompt: Any) -> list[str | list[int]]:
        if isinstance(prompt, str):
            prompt = [prompt]
        if not isinstance(prompt, list):
            raise _invalid(f"expected {_PROMPT_FORMS}, got {_json_kind(prompt)}")
        if not prompt:
            raise _invalid(_EMPTY)
        if all(_is_token(item) for item in prompt):
            return [prompt]
        texts = all(isinstance(item, str) for item in prompt)
        rows = all(isinstance(item, list) and all(map(_is_token, item)) for item in prompt)
        if texts or rows:
            if not all(prompt):
                raise _invalid(_EMPTY)
            return prompt
        kinds = sorted({_json_kind(item) for item in prompt})
        raise _invalid(f"expected {_PROMPT_FORMS}, got a list with {', '.join(kinds)}")

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and "" in stops:
            raise _invalid("a stop string is empty: it would end every answer at once")
        return stops

    @model_validator(mode="after")
    def _belong_together(self) -> "CompletionRequest":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "invalid_value",
                "'stream_options' needs 'stream': true",
                {"param": "stream_options"},
            )
        return self


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


class Usage(BaseModel):
    """Every prompt counts once, however many choices it has; a token that ends an answer counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


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
    message = first["msg"]
    if "param" not in context and param:
        given = first.get("input")
        shown = repr(given) if isinstance(given, int | float | str) else ""
        shown = f" (got {shown})" if 0 < len(shown) <= 100 else ""
        message = f"'{param}': {message}{shown}"
    known = ("unknown_parameter", "unsupported_parameter")
    code = kind if kind in known else "invalid_value"
    return RequestError(400, message, param=param, code=code)


def new_completion_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())


def _invalid(message: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{message}", {"message": message})


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _equal(value: Any, other: Any) -> bool:
    """As in JSON, where false is not 0."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _json_kind(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names[type(value)]
