# SPDX-License-Identifier: Apache-2.0
"""What a load asks for: prompts, the lengths of answers, and when they arrive, all of one seed.

A prompt of so many tokens is written as words, because every server takes text: a server's own
counts of two prompts tell how many characters a token has there (`calibrated`).
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError

Api = Literal["completions", "chat"]
ROUTES: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
TEXT = (
    "the of and to in that was his he it with is for as had you not be her on at by which have or "
    "from this him but all she they were my are me one their so an said them we who would been "
    "will no when there if more out up into do any your what has man could other than our some "
    "very time upon about may its only now like little then can should made did us such great"
)
WORDS = tuple(TEXT.split())


class Lengths(NamedTuple):
    """In tokens: `low` to `high`, each as likely, or, with a mean, exponential."""

    low: int
    high: int
    mean: float | None = None

    def draw(self, rng: np.random.Generator) -> int:
        if self.mean is not None:
            return max(1, round(rng.exponential(self.mean)))
        return int(rng.integers(self.low, self.high + 1))


def lengths(text: str, option: str) -> Lengths:
    """From "128", "16-512" or "exp:128". Raises UserError that names the option."""
    kind, _, number = text.rpartition(":")
    low, _, high = number.partition("-")
    high = high or low
    if kind not in ("", "exp") or not (low.isdecimal() and high.isdecimal()):
        raise UserError(f"{option} {text!r}: expected N, LOW-HIGH or exp:MEAN, in tokens")
    if not 1 <= int(low) <= int(high):
        raise UserError(f"{option} {text!r}: expected at least 1 token, and LOW up to HIGH")
    if kind:
        return Lengths(1, 1, float(low))
    return Lengths(int(low), int(high))


class Scale(NamedTuple):
    """How many tokens a server counts for text: so many whatever it says, and so many more for each
    character."""

    fixed: float
    per_character: float

    def characters(self, tokens: int) -> int:
        return max(1, round((tokens - self.fixed) / self.per_character))


def calibrated(short: tuple[int, int], long: tuple[int, int]) -> Scale:
    """From (characters, tokens) of two prompts."""
    per_character = (long[1] - short[1]) / (long[0] - short[0])
    return Scale(long[1] - per_character * long[0], per_character)


def words(characters: int, rng: np.random.Generator) -> str:
    """Text of about so many characters, no two alike from their first word on."""
    drawn: list[str] = []
    length = -1
    while length < characters:
        drawn.append(WORDS[rng.integers(len(WORDS))])
        length += len(drawn[-1]) + 1
    return " ".join(drawn)[: max(1, characters)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests without an end. fields: that all have. lines: of a file, taken in turn."""

    api: Api
    prompt: Lengths
    answer: Lengths
    scale: Scale
    fields: dict[str, Any]
    lines: tuple[dict[str, Any], ...] = ()

    def bodies(self, seed: int) -> Iterator[dict[str, Any]]:
        """The bodies of requests, the same for the same seed."""
        rng = np.random.default_rng(seed)
        for number in itertools.count():
            if self.lines:
                content = self.lines[number % len(self.lines)]
            else:
                content = asked(self.api, words(self.scale.characters(self.prompt.draw(rng)), rng))
            yield self.fields | {"max_tokens": self.answer.draw(rng)} | content


def asked(api: Api, text: str) -> dict[str, Any]:
    """The fields that hold what is asked."""
    if api == "chat":
        return {"messages": [{"role": "user", "content": text}]}
    return {"prompt": text}


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds at which requests arrive, `rate` a second: a Poisson process."""
    rng = np.random.default_rng(seed)
    now = 0.0
    while True:
        now += rng.exponential(1 / rate)
        yield now


def read_lines(path: Path, api: Api) -> tuple[dict[str, Any], ...]:
    """A file of requests, a JSON object a line, with a prompt or messages. Raises UserError that
    names the line."""
    field = "messages" if api == "chat" else "prompt"
    lines = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(content, dict) or field not in content:
            raise UserError(f"{path}, line {number}: expected an object with {field!r} for {api}")
        lines.append(content)
    if not lines:
        raise UserError(f"{path} has no requests: expected a JSON object a line")
    return tuple(lines)
