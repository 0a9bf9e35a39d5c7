# SPDX-License-Identifier: Apache-2.0
"""Sampling: how an answer's tokens are chosen and where it ends, as one value. Knows no JAX.

    Sampling(temperature=0.8, top_p=0.9, seed=1)

It is checked once, when it is made (a UserError names what is out of range), and passed whole from
there on: `LanguageModel`, the engine, the server and the command line all take this value.
"""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from recurrentgemma.errors import UserError, did_you_mean

MAX_STOP_TOKENS = 16  # of Sampling.stop_token_ids: an engine has room for them in every slot

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable)
PerPrompt = T | Sequence[T]  # one value for all prompts, or one for each


class SamplingOptions(TypedDict, total=False):
    """The fields of Sampling, as keywords for several prompts."""

    max_tokens: PerPrompt[int]
    temperature: PerPrompt[float]
    top_k: PerPrompt[int | None]
    top_p: PerPrompt[float]
    min_p: PerPrompt[float]
    stop: str | Sequence[str] | Sequence[Sequence[str]]
    seed: PerPrompt[int | None]
    logit_bias: PerPrompt[Mapping[int, float]]
    frequency_penalty: PerPrompt[float]
    presence_penalty: PerPrompt[float]
    repetition_penalty: PerPrompt[float]
    stop_token_ids: Sequence[int] | Sequence[Sequence[int]]
    ignore_eos: PerPrompt[bool]
    min_tokens: PerPrompt[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one prompt is answered. The temperature comes first, then top_k, top_p and min_p."""

    max_tokens: int = 128
    """Most tokens to generate."""
    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from what the model says."""
    top_k: int | None = None
    """Draw from the so many likeliest tokens."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Draw from tokens at least this many times as likely as the likeliest."""
    stop: tuple[str, ...] = ()
    """Strings before which the text ends."""
    seed: int | None = None
    """Gives the same text again; by default each run differs."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of tokens, as (id, bias); in Python a mapping will do."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """Taken once from the logits of tokens that the answer has."""
    repetition_penalty: float = 1.0
    """Logits of tokens of prompt and answer are divided by it where above 0, else multiplied; in a
    session of the answer alone, for what it has read is not kept."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, beside the tokenizer's."""
    ignore_eos: bool = False
    """The tokenizer's own tokens do not end the answer."""
    min_tokens: int = 0
    """Before so many tokens, those that end the answer are not drawn."""

    def __post_init__(self) -> None:
        for name, (convert, good, expected) in _EXPECTED.items():
            given = getattr(self, name)
            try:
                value = convert(given)
                fits = good(value)
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise UserError(f"{name} is {given!r}: expected {expected}", field=name)
            object.__setattr__(self, name, value)
        if self.min_tokens > self.max_tokens:
            raise UserError(
                f"min_tokens is {self.min_tokens}: expected at most max_tokens, {self.max_tokens}",
                field="min_tokens",
            )

    @property
    def changes_logits(self) -> bool:
        """Whether tokens are drawn from other logits than the model's (logit_changes.py)."""
        return bool(
            self.logit_bias
            or self.frequency_penalty
            or self.presence_penalty
            or self.repetition_penalty != 1
            or self.min_tokens
        )


def samplings(count: int, options: Mapping[str, Any]) -> list[Sampling]:
    """The Sampling of each of `count` prompts, from options as in SamplingOptions.

    Raises UserError as Sampling does, and for a sequence that is not one value a prompt.
    """
    columns = {name: one_a_prompt(name, value, count) for name, value in options.items()}
    return [Sampling(**{name: column[i] for name, column in columns.items()}) for i in range(count)]


def one_a_prompt(name: str, value: Any, count: int) -> Sequence:
    """`value` for each of `count` prompts. Raises UserError for a sequence of another length."""
    shared = isinstance(value, str) or not _many(value)
    if name in ("stop", "stop_token_ids") and not shared:  # a prompt's value is a sequence itself
        shared = all(isinstance(item, str) or not _many(item) for item in value)
    if name == "logit_bias" and not shared:
        shared = all(_many(item) and len(item) == 2 and not any(map(_many, item)) for item in value)
    values = [value] * count if shared else list(value)
    if len(values) != count:
        raise UserError(f"{name} has {len(values)} values for {count} prompts", field=name)
    return values


def takes_sampling_options(method: Method) -> Method:
    """For methods whose **options are SamplingOptions: the signature shows each of them, and
    another one is a TypeError that names the method, the option and the nearest that it takes."""
    signature = inspect.signature(method)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shown = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=SamplingOptions.__annotations__[field.name],
        )
        for field in dataclasses.fields(Sampling)
    ]
    names = [p.name for p in [*named, *shown]]

    @functools.wraps(method)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in names:
                raise TypeError(
                    f"{method.__qualname__}() has no option {name!r}"
                    f"{did_you_mean(name, names)}: it takes {', '.join(names[1:])}"
                )
        return method(*arguments, **options)

    vars(checked)["__signature__"] = signature.replace(parameters=[*named, *shown])
    return checked  # type: ignore[return-value]


def _many(value: Any) -> bool:
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0  # or a NumPy array


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError
    return float(value)


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else operator.index(value)


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(operator.index(id) for id in value)


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    biases = {operator.index(id): _number(bias) for id, bias in pairs}
    return tuple(sorted(biases.items()))


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.encode() != b""  # no half characters


_EXPECTED: dict[str, tuple[Callable, Callable, str]] = {
    "max_tokens": (operator.index, lambda n: 0 <= n < 2**31, f"a whole number below {2**31}"),
    "temperature": (_number, lambda x: 0 <= x <= 1e6, "a number from 0 to a million"),
    "top_k": (_whole_or_none, lambda k: k is None or k >= 0, "a whole number, 0 for all"),
    "top_p": (_number, lambda p: 0 < p <= 1, "a number over 0 and at most 1"),
    "min_p": (_number, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "stop": (_strings, lambda s: all(map(_is_text, s)), "strings, none of them empty"),
    "seed": (
        _whole_or_none,
        lambda seed: seed is None or -(2**63) <= seed < 2**64,
        "a whole number of at most 64 bits",
    ),
    "logit_bias": (
        _biases,
        lambda pairs: all(0 <= id < 2**31 and abs(bias) <= 100 for id, bias in pairs),
        "token ids with numbers from -100 to 100",
    ),
    "frequency_penalty": (_number, lambda x: -2 <= x <= 2, "a number from -2 to 2"),
    "presence_penalty": (_number, lambda x: -2 <= x <= 2, "a number from -2 to 2"),
    "repetition_penalty": (_number, lambda x: 0 < x <= 100, "a number over 0 and at most 100"),
    "stop_token_ids": (
        _ids,
        lambda ids: len(ids) <= MAX_STOP_TOKENS and all(0 <= id < 2**31 for id in ids),
        f"at most {MAX_STOP_TOKENS} token ids, each at least 0",
    ),
    "ignore_eos": (_truth, lambda _: True, "True or False"),
    "min_tokens": (operator.index, lambda n: 0 <= n < 2**31, f"a whole number below {2**31}"),
}
