# SPDX-License-Identifier: Apache-2.0
"""The phonebook (Jelassi et al., 2024; Griffin paper, section 6.2): how long a text a model can
look a number up in, without training for it.

    Maria Fuller: 609-323-7777
    ...
    (all entries, then two worked examples and the question)
    Maria Fuller: 609-323-7777

    Maria Fuller: 609-323-7777
    Ivan Cole: 212-555-0101
    Nora Webb:

Names and numbers are random, and names differ. The two examples and the question are of the book,
and of three different entries. An answer is right where greedy decoding gives all of the number.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eval.tasks.continuations import ContinuationScorer
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.continuation import encode_continuation

_FIRST = """Ada Alan Amir Anna Aria Ben Boris Carl Cleo Clara David Diana Edith Elena Emil Erik
Ethan
Eva Felix Fiona Frank George Grace Hanna Hugo Ida Igor Irene Ivan Jack Jane Jonas Julia Karim Kate
Laura Leo Linda Louis Lucy Marco Maria Mark Mila Nadia Nina Noah Nora Olga Omar Oscar Paul Petra
Ralph Rosa Ruth Samuel Sara Simon Sofia Tessa Tom Vera Victor"""
_LAST = """Adams Baker Barnes Bell Bishop Black Boyd Brooks Burke Carter Chen Clark Cole Cox Cruz
Dean Diaz Dunn Ellis Evans Fisher Ford Fox Fuller Garcia Gibson Grant Gray Green Hall Hart Hayes
Hill Holmes Hunt Jensen Jones Kelly Kim King Lane Lopez Marsh Mason Meyer Miller Moore Nash Novak
Olsen Park Perry Powell Reed Rossi Russo Shaw Silva Stone Tanner Turner Webb West Wolf"""
FIRST, LAST = _FIRST.split(), _LAST.split()
EXAMPLES = 2
FEWEST, MOST = EXAMPLES + 1, len(FIRST) * len(LAST)


class Question(NamedTuple):
    """prompt ends after the name's colon; answer begins with a space."""

    prompt: str
    answer: str


class Recall(NamedTuple):
    """Of questions on books of `entries`: how many were answered rightly."""

    entries: int
    questions: int
    right: int
    tokens: float  # of a prompt, on average
    nats: float  # of an answer, on average: -log p

    @property
    def accuracy(self) -> float:
        return self.right / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, at 95%: Wilson's, which holds near 0 and 1, too."""
        n, z = self.questions, 1.96
        middle = self.accuracy + z * z / (2 * n)
        reach = z * math.sqrt(self.accuracy * (1 - self.accuracy) / n + z * z / (4 * n * n))
        low, high = ((middle + sign * reach) / (1 + z * z / n) for sign in (-1, 1))
        return max(0.0, low), min(1.0, high)


def question(entries: int, seed: str) -> Question:
    """One book of so many entries, and a question about it."""
    draw = random.Random(seed)
    names = [
        f"{FIRST[index % len(FIRST)]} {LAST[index // len(FIRST)]}"
        for index in draw.sample(range(MOST), entries)
    ]
    numbers = [
        f"{draw.randrange(1000):03}-{draw.randrange(1000):03}-{draw.randrange(10_000):04}"
        for _ in names
    ]
    book = "".join(f"{name}: {number}\n" for name, number in zip(names, numbers, strict=True))
    *examples, asked = draw.sample(range(entries), EXAMPLES + 1)
    shown = "".join(f"{names[i]}: {numbers[i]}\n" for i in examples)
    return Question(f"{book}\n{shown}{names[asked]}:", f" {numbers[asked]}")


def check_entries(entries: Sequence[int]) -> None:
    """Raises UserError: a book is too small for the examples, or larger than there are names."""
    for count in entries:
        if not FEWEST <= count <= MOST:
            raise UserError(f"entries={count}: expected from {FEWEST} to {MOST}")


def recall(
    lm: LanguageModel,
    scorer: ContinuationScorer,
    entries: int,
    *,
    questions: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Recall:
    """How well `lm`, of which `scorer` is, looks numbers up in books of so many entries.

    Raises UserError: it has no tokenizer; a prompt is longer than a model with global attention
    holds; a number of entries as check_entries.
    """
    check_entries([entries])
    tokenizer = lm.tokenizer
    if tokenizer is None:
        raise UserError("this model came without a tokenizer, and a phonebook is text")
    pairs = []
    for prompt, answer in (question(entries, f"{entries} {seed} {i}") for i in range(questions)):
        pairs.append((tokenizer.encode(prompt), encode_continuation(tokenizer, answer, prompt)))
    try:
        scored = scorer.score(pairs, progress)
    except UserError as error:
        message = f"a phonebook of {entries:,} entries: {error}; fewer are asked for by --entries"
        raise UserError(message) from error
    return Recall(
        entries,
        questions,
        sum(continuation.greedy for continuation in scored),
        sum(len(context) for context, _ in pairs) / questions,
        -sum(continuation.log_probability for continuation in scored) / questions,
    )
