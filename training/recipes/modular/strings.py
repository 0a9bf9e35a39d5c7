# SPDX-License-Identifier: Apache-2.0
"""String tasks composed of rules: what a task does is one value of each of three factors.

    abcde>(EDCBA)        reverse, upper, quote

Nothing in an example says what its task is. Which combinations are trained on is the support. All
three kinds train on 16 of 64 combinations, have each value of a factor four times, and hold out the
same ones, those of none of them:

    spread         the values add up to a multiple of 4: any two values of two factors meet, once
    ring           the second value is the first or the one after it (0 after 3), and so is the
                   third beside the second
    disconnected   values 0 and 1 of all factors with one another, and 2 and 3 with one another

The first two are connected: a chain of combinations that share values leads from any of them to any
other. The ring is only just so.

Legend: B examples, T bytes, C combinations, F factors.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch
from training.recipes.modular.support import components

Kind = Literal["spread", "ring", "disconnected"]
KINDS: tuple[Kind, ...] = ("spread", "ring", "disconnected")
LETTERS = "abcdefgh"
SHORTEST, LONGEST = 3, 5
ROW = 18  # T, bytes of a row
ARROW, END = ">", "\n"


def _shifted(by: int) -> Callable[[str], str]:
    """Each letter becomes the one so many places on in LETTERS, which begins again after its
    last."""
    table = str.maketrans(LETTERS, LETTERS[by:] + LETTERS[:by])
    return lambda text: text.translate(table)


def _swapped(text: str) -> str:
    """The first half after the second."""
    return text[len(text) // 2 :] + text[: len(text) // 2]


FACTORS: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    "places": {
        "keep": lambda text: text,
        "reverse": lambda text: text[::-1],
        "rotate": lambda text: text[1:] + text[:1],
        "swap": _swapped,
    },
    "letters": {
        "same": lambda text: text,
        "next": _shifted(1),
        "upper": str.upper,
        "third": _shifted(3),
    },
    "frame": {
        "bare": lambda text: text,
        "quote": lambda text: f"({text})",
        "echo": lambda text: text + text[-1],
        "dash": lambda text: "-".join(text),
    },
}
"""In the order in which they are applied; each has four rules."""
VALUES = 4


class Support(NamedTuple):
    """Combinations, int [C, F]."""

    train_CF: np.ndarray
    out_CF: np.ndarray


def support(kind: Kind) -> Support:
    """What is trained on and what no kind trains on. Raises UserError: there is no such kind."""
    if kind not in KINDS:
        raise UserError(f"support {kind!r}: expected one of {', '.join(KINDS)}")
    every_CF = np.array(list(itertools.product(range(VALUES), repeat=len(FACTORS))))
    half_CF = every_CF // (VALUES // 2)
    trained = {
        "spread": every_CF.sum(1) % VALUES == 0,
        "ring": (np.diff(every_CF, axis=1) % VALUES <= 1).all(1),
        "disconnected": (half_CF == half_CF[:, :1]).all(1),
    }
    known_C = np.any(list(trained.values()), axis=0)
    return Support(every_CF[trained[kind]], every_CF[~known_C])


def connected(combinations_CF: np.ndarray) -> bool:
    """Whether a chain of combinations that share values leads from any of them to any other."""
    masks_CFV = np.eye(VALUES)[combinations_CF]
    return components(masks_CFV.reshape(len(combinations_CF), 1, -1)) == 1


def name_of(values_F: Sequence[int]) -> str:
    """Such as `reverse upper quote`."""
    return " ".join(
        list(rules)[value] for rules, value in zip(FACTORS.values(), values_F, strict=True)
    )


def transformed(values_F: Sequence[int], text: str) -> str:
    """The text after the rules of a combination."""
    for rules, value in zip(FACTORS.values(), values_F, strict=True):
        text = list(rules.values())[value](text)
    return text


def drawn(random: np.random.Generator) -> str:
    """A random text of SHORTEST to LONGEST letters."""
    length = random.integers(SHORTEST, LONGEST + 1)
    return "".join(LETTERS[n] for n in random.integers(len(LETTERS), size=length))


def examples(combinations_BF: np.ndarray, random: np.random.Generator) -> Batch:
    """One example a row, of these combinations. What follows the arrow is learned, with the end."""
    shape = (len(combinations_BF), ROW)
    tokens_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights_BT, positions_BT = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    for row, values_F in enumerate(combinations_BF):
        text = drawn(random)
        line = f"{text}{ARROW}{transformed(values_F, text)}{END}"
        ids = np.frombuffer(line.encode(), np.uint8).astype(np.int32)
        size, first = len(ids) - 1, len(text)
        tokens_BT[row, :size], targets_BT[row, :size] = ids[:-1], ids[1:]
        weights_BT[row, first:size] = 1
        positions_BT[row, :size] = np.arange(size)
    return Batch(tokens_BT, targets_BT, weights_BT, positions_BT)  # type: ignore[arg-type]
