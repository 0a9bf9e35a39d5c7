# SPDX-License-Identifier: Apache-2.0
"""Batches of preferences: every example once an epoch, in an order that the seed decides.

A row is a prompt with one answer, from an empty state; two rows are of one example
(preference_losses.py). Rows are as long as the longest of their batch needs, in one of a few
lengths, for each of which a program is compiled: the row length of the run, half of it, a quarter.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch
from training.finetuning.preferences import Answer, Preference

SHORTEST = 64  # of the lengths of rows


class PreferenceBatches:
    """An iterator of batches of `batch_size` rows, half as many examples; the last is filled up
    with padding. rows: those that this process yields. multiple: of what every length is one.

    Raises UserError: there are no examples.
    """

    def __init__(
        self,
        examples: Sequence[Preference],
        *,
        batch_size: int,
        row_length: int,
        seed: int,
        epochs: float,
        rows: range | None = None,
        multiple: int = 1,
    ) -> None:
        if not examples:
            raise UserError("there are no preferences to learn from: name a file that has some")
        self._examples, self._seed = examples, seed
        self._size, self._multiple, self._row_length = batch_size // 2, multiple, row_length
        self._rows = range(batch_size) if rows is None else rows
        self._examples_read = max(round(epochs * len(examples)), 1)
        self.count = math.ceil(self._examples_read / self._size)
        self._number, self._order_of, self._order = 0, -1, np.arange(0)
        self._fingerprint = {
            "examples": len(examples),
            "tokens": sum(len(answer.ids) for one in examples for answer in one.answers),
            "batch_size": batch_size,
            "seed": seed,
            "epochs": epochs,
        }

    def __iter__(self) -> "PreferenceBatches":
        return self

    def __next__(self) -> Batch:
        if self._number == self.count:
            raise StopIteration
        first = self._number * self._size
        chosen = [self._chosen(n) for n in range(first, first + self._size)]
        self._number += 1
        return rows_of(chosen, length=self._length(chosen), own=self._rows)

    def _chosen(self, number: int) -> Preference | None:
        """The example with this number in the order of all epochs; None after the last."""
        if number >= self._examples_read:
            return None
        epoch, place = divmod(number, len(self._examples))
        if self._order_of != epoch:
            self._order_of = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(
                len(self._examples)
            )
        return self._examples[self._order[place]]

    def _length(self, chosen: Sequence[Preference | None]) -> int:
        longest = max(longest_row(chosen), 1)
        length = self._row_length
        while (
            length % 2 == 0
            and length // 2 >= max(longest, SHORTEST)
            and length // 2 % self._multiple == 0
        ):
            length //= 2
        return length

    @property
    def epoch(self) -> float:
        """How often the examples have been gone through."""
        return min(self._number * self._size, self._examples_read) / len(self._examples)

    def check_steps(self, steps: int) -> None:
        """Raises UserError: the batches end before or after so many steps."""
        if steps != self.count:
            raise UserError(f"steps={steps}, but the preferences are {self.count} batches")

    def state(self) -> dict[str, Any]:
        """What `restore` needs: JSON values."""
        return {"next_batch": self._number, "fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises UserError: the examples have changed since."""
        if state.get("fingerprint") != self._fingerprint:
            raise UserError(
                f"the preferences are not the saved run's (saved -> now: "
                f"{state.get('fingerprint')} -> {self._fingerprint}); bring the old ones back, or "
                "start a new run with another --run-dir"
            )
        self._number = state["next_batch"]

    def close(self) -> None:
        """Nothing is made ahead."""


def longest_row(examples: Sequence[Preference | None]) -> int:
    """Tokens, of kto's answers to other prompts, too."""
    if any(one is not None and len(one.answers) == 1 for one in examples):
        there = [one.answers[0] for one in examples if one is not None]
        prompt = max(answer.start for answer in there)
        return prompt + max(len(answer.ids) - answer.start for answer in there) - 1
    return max((one.length for one in examples if one is not None), default=0)


def rows_of(
    examples: Sequence[Preference | None], *, length: int, own: range | None = None
) -> Batch:
    """Two rows of `length` tokens of each example (None: padding), or of the rows `own` alone."""
    answers: list[Answer | None] = []
    there = [one for one in examples if one is not None]  # padding comes last
    for number, example in enumerate(examples):
        if example is None:
            answers += [None, None]
        elif len(example.answers) == 2:
            answers += example.answers
        else:
            other = there[(number + 1) % len(there)].answers[0]
            answers += [example.answers[0], _in_place(example.answers[0], other)]
    if own is not None:
        answers = answers[own.start : own.stop]
    shape = (len(answers), length)
    tokens_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    positions_BT, weights_BT = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for row, answer in enumerate(answers):
        if answer is None:
            continue
        pairs = min(len(answer.ids) - 1, length)  # of kto's other answers the beginning does
        tokens_BT[row, :pairs] = answer.ids[:pairs]
        targets_BT[row, :pairs] = answer.ids[1 : pairs + 1]
        positions_BT[row, :pairs] = np.arange(pairs)
        weights_BT[row, answer.start - 1 : pairs] = answer.sign
    arrays: Any = (tokens_BT, targets_BT, weights_BT, positions_BT)
    return Batch(*arrays)


def _in_place(answer: Answer, other: Answer) -> Answer:
    """The other answer to this one's prompt; it counts with sign 1."""
    ids = np.concatenate([answer.ids[: answer.start], other.ids[other.start :]])
    return Answer(ids, answer.start, 1)
