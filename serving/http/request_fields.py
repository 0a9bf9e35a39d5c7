# SPDX-License-Identifier: Apache-2.0
"""What every request for text may say, in OpenAI's words, as a pydantic model: how to sample, how
to answer, and what is taken because it changes nothing.

A field that changes the answer is honoured, or refused with a 400 that names it. `top_k`, `min_p`,
`repetition_penalty`, `stop_token_ids`, `ignore_eos`, `min_tokens` and `return_token_ids` are
additions, by the names that vLLM gave them. A field of OpenAI's that this server does not do is
accepted at the value at which it does nothing, so that clients which always send it still work, and
so are the fields that never change an answer.
"""

import abc
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from recurrentgemma.generation.sampling import MAX_STOP_TOKENS

INT32_MAX = 2**31 - 1
MAX_LOGPROBS = 5
MAX_STOP_STRINGS = 128
MAX_BIASES = 1024
MAX_STOP_LENGTH = 1000  # characters: each is looked for after every token

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: bool | None = False
    include_obfuscation: bool | None = False  # taken; chunks are never padded
    continuous_usage_stats: Literal[False] | None = False  # vLLM's; the usage comes at the end


class JsonSchema(BaseModel):
    model_config = STRICT

    name: str
    description: str | None = None
    strict: bool | None = None  # a schema is always kept to
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's way to ask for JSON."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise invalid("'json_schema' is missing: 'type': 'json_schema' needs it")
        if self.type != "json_schema" and self.json_schema is not None:
            raise invalid(
                f"'json_schema' belongs to 'type': 'json_schema', and this is {self.type}"
            )
        return self


class StructuredOutputs(BaseModel):
    """vLLM's way to ask for text of a form: one of these."""

    model_config = STRICT

    json_schema: dict[str, Any] | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1, max_length=1024)
    grammar: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise invalid("expected one of json, json_object, regex, choice, grammar")
        return self


class RequestFields(BaseModel):
    """The fields that requests of every kind have."""

    model_config = STRICT

    # Fields of OpenAI's, and of vLLM's clients, that would change an answer and that this server
    # does not do, with the values at which they change nothing.
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "early_stopping": (None, False),
        "include_stop_str_in_output": (None, False),
        "length_penalty": (None, 1),
        "priority": (None, 0),
        "prompt_logprobs": (None,),
        "skip_special_tokens": (None, True),
        "spaces_between_special_tokens": (None, True),
        "truncate_prompt_tokens": (None,),
        "typical_p": (None, 1),
        "use_beam_search": (None, False),
    }

    model: str | None = None
    temperature: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=-1, le=INT32_MAX)  # 0 and -1: every token
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    n: int = Field(1, ge=1, le=128)
    stop: list[Annotated[str, Field(max_length=MAX_STOP_LENGTH)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS
    )
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=MAX_BIASES)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(1.0, gt=0.0, le=100.0)
    stop_token_ids: list[int] = Field(default_factory=list, max_length=MAX_STOP_TOKENS)
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0, le=INT32_MAX)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    session: str | None = None  # what it has read stands before the prompt
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    # Labels for OpenAI's own bookkeeping. They change no answer, and nothing is kept of them.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None

    @property
    @abc.abstractmethod
    def texts(self) -> Any:
        """What is asked, for a log that was told to have it."""

    @property
    def drawn(self) -> int:
        """Answers that are generated to a prompt."""
        return self.n

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, body: Any) -> Any:
        """Refuse unknown fields by name; take null as "the default", as OpenAI does."""
        if not isinstance(body, dict):
            raise PydanticCustomError("invalid_value", "the body must be a JSON object")
        for name, value in body.items():
            if name in cls.without_effect:
                same_as_n = name == "best_of" and _equal(value, body.get("n") or 1)
                if not (same_as_n or any(_equal(value, v) for v in cls.without_effect[name])):
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
        return {k: v for k, v in body.items() if v is not None and k not in cls.without_effect}

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _biases(cls, given: Any) -> Any:
        """By token id, which JSON can only write as a string."""
        if not isinstance(given, dict):
            raise invalid("expected an object of token ids with numbers from -100 to 100")
        biases = {}
        for id, bias in given.items():
            number = isinstance(bias, int | float) and not isinstance(bias, bool)
            whole = isinstance(id, str) and re.fullmatch("0|[1-9][0-9]*", id)  # not "5" and "05"
            if not (whole and len(id) < 10 and number and -100 <= bias <= 100):
                raise invalid(
                    f"{str(id)[:20]!r}: expected a token id with a number from -100 to 100"
                )
            biases[int(id)] = float(bias)
        return biases

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and "" in stops:
            raise invalid("a stop string is empty: it would end every answer at once")
        return stops

    @field_validator("response_format")
    @classmethod
    def _any_text(cls, form: ResponseFormat | None) -> ResponseFormat | None:
        return None if form is None or form.type == "text" else form

    @model_validator(mode="after")
    def _belong_together(self) -> "RequestFields":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "invalid_value",
                "'stream_options' needs 'stream': true",
                {"param": "stream_options"},
            )
        if self.session is not None and self.drawn > 1:
            field = "n" if self.n > 1 else "best_of"
            raise invalid("a session goes on one way: leave 'n' and 'best_of' out", field)
        if self.response_format is not None and self.structured_outputs is not None:
            raise invalid(
                "'structured_outputs' and 'response_format' are two answers to one question: give "
                "one of them",
                "structured_outputs",
            )
        return self


def invalid(message: str, param: str | None = None) -> PydanticCustomError:
    """An error of a validator's; its field is the validator's own if it is not said."""
    context = {"message": message} | ({} if param is None else {"param": param})
    return PydanticCustomError("invalid_value", "{message}", context)


def _equal(value: Any, other: Any) -> bool:
    """As in JSON, where false is not 0."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
