# SPDX-License-Identifier: Apache-2.0
"""What a chat template may take: steps, characters and seconds, counted while it is rendered.

A template is charged before a text is made, for as much as it can come to: a short expression
makes a long text in many ways, and what has filled the memory cannot be taken back.
"""

import contextvars
import dataclasses
import datetime
import re
import time
from collections.abc import Mapping
from typing import Any

STEPS = 1_000_000
CHARACTERS = 2**26  # of all that is written, put together or repeated
CPU_SECONDS = 10.0
_WIDTH = 10_000  # of text that is padded, and of numbers of columns
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap"}
_PADDING |= {"batch", "slice"}
_WIDE = re.compile(r"\d{5}|\*|\{[^}]*\{")  # in a format: a width that is large, or an argument


class TooMuch(Exception):
    """A template has used up what it may take."""


@dataclasses.dataclass
class Rendering:
    """What one rendering has left, and what it has told."""

    now: datetime.datetime | None
    steps: int = STEPS
    characters: int = CHARACTERS
    written: int = 0  # characters that have left the template
    spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    until: float = dataclasses.field(default_factory=lambda: time.thread_time() + CPU_SECONDS)


RENDERING: contextvars.ContextVar[Rendering] = contextvars.ContextVar("rendering")


def check_growth(name: str, subject: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Charge a method or filter that can make a long text of a short one."""
    values = [*args, *kwargs.values()]
    numbers = [value for value in values if isinstance(value, int)]
    if name in _PADDING and any(number > _WIDTH for number in numbers):
        raise TooMuch(f"pads a text to more than {_WIDTH:,} characters")
    if name in ("format", "format_map") and isinstance(subject, str) and _WIDE.search(subject):
        raise TooMuch(f"formats a text with a width that may be more than {_WIDTH:,}")
    if name in ("format", "format_map", "%") and isinstance(subject, str):
        given = [item for value in values for item in parts_of(value)]
        longest = max((size(item) for item in given), default=0)
        widths = sum(map(int, re.findall(r"\d+", subject)))
        fields = subject.count("%") + subject.count("{")
        charge_characters(len(subject) + widths + fields * longest)
    if name in ("indent", "wordwrap"):
        widest = max((v if isinstance(v, int) else len(str(v)) for v in values), default=4)
        lines = len(str(subject)) if name == "wordwrap" else str(subject).count("\n") + 1
        charge_characters(len(str(subject)) + lines * widest)
    if name == "sum" and any(isinstance(value, list | tuple) for value in values):
        raise TooMuch("adds lists up")
    if name == "replace" and len(values) > 1:
        old, new = map(str, values[:2])
        charge_characters(len(str(subject)) + str(subject).count(old) * len(new))
    if name == "join":
        separator, parts = (args[0] if args else "", subject)
        if isinstance(subject, str) and args and not isinstance(args[0], str):
            separator, parts = subject, args[0]
        charge_characters(sum(size(part) + len(str(separator)) for part in parts))


def joined(separator: str, parts: Any) -> str:
    charge_characters(sum(size(part) + len(separator) for part in parts))
    return separator.join(map(str, parts))


def counted(values: Any) -> list[Any]:
    """What can be gone through, as a list; each costs a step."""
    listed = []
    for value in values:
        charge_steps(1)
        listed.append(value)
    return listed


def parts_of(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def size(value: Any) -> int:
    """About how many characters a value is written in; a list in a list costs steps, so that one
    that holds itself many times over is found."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        charge_steps(1 + len(value))
        return sum(size(key) + size(item) + 4 for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        charge_steps(1 + len(value))
        return sum(size(item) + 2 for item in value)
    if isinstance(value, int):
        return value.bit_length() // 3 + 2
    return 32


def charge_text(value: Any) -> Any:
    """What every expression that is written out goes through."""
    charge_characters(size(value))
    return value


def charge_steps(count: int) -> None:
    rendering = RENDERING.get(None)
    if rendering is None:
        return  # Jinja works out a constant
    rendering.steps -= count
    if rendering.steps < 0:
        raise TooMuch(f"takes more than {STEPS:,} steps")
    if rendering.steps % 16 < count and time.thread_time() > rendering.until:
        raise TooMuch(f"takes more than {CPU_SECONDS:g} s")


def charge_characters(count: int) -> None:
    rendering = RENDERING.get(None)
    limit = CHARACTERS if rendering is None else rendering.characters
    if count > limit:
        raise TooMuch(f"writes more than {CHARACTERS:,} characters")
    if rendering is not None:
        rendering.characters -= count
