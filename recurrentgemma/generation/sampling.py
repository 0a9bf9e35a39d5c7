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


def samplings(count: int, options: Mapping[str, Any]) -> list[Sampling]:
    """The Sampling of each of `count` prompts, from options as in SamplingOptions.

    Raises UserError as Sampling does, and for a sequence that is not one value a prompt.
    """
    columns = {name: one_a_prompt(name, value, count) for name, value in options.items()}
    return [Sampling(**{name: column[i] for name, column in columns.items()}) for i in range(count)]


def one_a_prompt(name: str, value: Any, count: int) -> Sequence:
    """`value` for each of `count` prompts. Raises UserError for a sequence of another length."""
    many = isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0  # or a NumPy array
    shared = isinstance(value, str) or not many
    if name == "stop" and not shared:
        shared = all(isinstance(string, str) for string in value)
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


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError
    return float(value)


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else operator.index(value)


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.encode() != b""  # no half characters


_EXPECTED: dict[str, tuple[Callable, Callable, str]] = {
    "max_tokens": (operator.index, lambda n: 0 <= n < 2**31, f"a whole number below {2**31}"),
    "temperature": (_number, lambda x: 0 <= x < float("inf"), "a number of at least 0"),
    "top_k": (_whole_or_none, lambda k: k is None or k >= 0, "a whole number, 0 for all"),
    "top_p": (_number, lambda p: 0 < p <= 1, "a number over 0 and at most 1"),
    "min_p": (_number, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "stop": (_strings, lambda s: all(map(_is_text, s)), "strings, none of them empty"),
    "seed": (
        _whole_or_none,
        lambda seed: seed is None or -(2**63) <= seed < 2**64,
        "a whole number of at most 64 bits",
    ),
}
