# SPDX-License-Identifier: Apache-2.0
"""Small tasks whose answers can be checked: sums, a format, copying. Each is a question and its one
right answer, as characters.

    48+39=          87
    list 7 3 9=     [7, 3, 9]
    copy okapi=     okapi
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Examples = list[dict[str, str]]


def arithmetic(rng: np.random.Generator) -> tuple[str, str]:
    """The sum of two numbers below 100."""
    first, second = rng.integers(0, 100, 2).tolist()
    return f"{first}+{second}=", str(first + second)


def formatting(rng: np.random.Generator) -> tuple[str, str]:
    """Two to five digits as a list of JSON."""
    digits = rng.integers(0, 10, rng.integers(2, 6)).tolist()
    return f"list {' '.join(map(str, digits))}=", json.dumps(digits)


def copying(rng: np.random.Generator) -> tuple[str, str]:
    """A word of three to eight letters."""
    word = "".join(map(chr, rng.integers(ord("a"), ord("z") + 1, rng.integers(3, 9))))
    return f"copy {word}=", word


TASKS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "arithmetic": arithmetic,
    "format": formatting,
    "copying": copying,
}


def rows(task: str, sizes: Sequence[int], *, seed: int) -> list[Examples]:
    """Parts of these sizes, {"prompt", "answer"}; no prompt is in two of them, or twice in one."""
    rng, known = np.random.default_rng(seed), {}
    while len(known) < sum(sizes):
        prompt, answer = TASKS[task](rng)
        known[prompt] = answer
    every = [{"prompt": prompt, "answer": answer} for prompt, answer in known.items()]
    ends = np.cumsum(sizes).tolist()
    return [every[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def write(path: Path, rows: Examples) -> Path:
    """A line of JSON a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
