# SPDX-License-Identifier: Apache-2.0
"""Batches of preferences: every example once an epoch, in an order that the seed decides.

Two rows are of one example (preference_losses.py). They hold its answers; its prompt, which both go
on from, is read once. Prompts and rows are as long as the longest of their batch needs, in one of a
few lengths, for each two of which a program is compiled: the row length of the run, half of it, a
quarter.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrentgemma.errors import UserError
from training.finetuning.preferences import Answer, Preference

SHORTEST = 64  # of the lengths of rows


class PreferenceBatch(NamedTuple):
    """Rows of answers, as recurrentgemma.losses.Batch, but for the beginning of each, which rows 2i
    and 2i + 1 have in common and both hold."""

    tokens_BT: jax.Array
    targets_BT: jax.Array
    weights_BT: jax.Array  # the answer's sign at its tokens, 0 elsewhere
    positions_BT: jax.Array  # after the prompt's; -1 at padding
    prompt_BP: jax.Array
    prompt_positions_BP: jax.Array  # from 0; -1 at padding


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

    def __next__(self) -> PreferenceBatch:
        if self._number == self.count:
            raise StopIteration
        first = self._number * self._size
        chosen = [self._chosen(n) for n in range(first, first + self._size)]
        self._number += 1
        prompt_length, length = map(self._length, longest_parts(chosen))
        return rows_of(chosen, prompt_length=prompt_length, length=length, own=self._rows)

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

    def _length(self, longest: int) -> int:
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


def longest_parts(examples: Sequence[Preference | None]) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest row that goes on from one, of kto's answers
    to other prompts, too; each at least 1."""
    parts = [_parts(one) for one in examples if one is not None]
    return (
        max((prompt for prompt, _ in parts), default=0) or 1,
        max((length for _, lengths in parts for length in lengths), default=0) or 1,
    )


def _parts(example: Preference) -> tuple[int, list[int]]:
    """How many tokens all answers of an example begin with, none of which is learned; and the
    tokens of each row after them."""
    answers = example.answers
    shared = min(answer.start for answer in answers) - 1
    first = answers[0].ids[:shared]
    for answer in answers[1:]:
        differ = np.flatnonzero(answer.ids[:shared] != first)
        shared = min([shared, *differ[:1].tolist()])
    return shared, [len(answer.ids) - 1 - shared for answer in answers]


def rows_of(
    examples: Sequence[Preference | None],
    *,
    prompt_length: int,
    length: int,
    own: range | None = None,
) -> PreferenceBatch:
    """Two rows of `length` tokens of each example (None: padding), or of the rows `own` alone, that
    go on from a prompt of `prompt_length` tokens."""
    rows: list[tuple[int, Answer] | None] = []
    there = [one for one in examples if one is not None]  # padding comes last
    for number, example in enumerate(examples):
        if example is None:
            rows += [None, None]
            continue
        shared, _ = _parts(example)
        answers = example.answers
        if len(answers) == 1:
            other = there[(number + 1) % len(there)].answers[0]
            answers = (answers[0], _in_place(answers[0], other))
        rows += [(shared, answer) for answer in answers]
    if own is not None:
        rows = rows[own.start : own.stop]
    batch = _empty(len(rows), prompt_length, length)
    for row, one in enumerate(rows):
        if one is None:
            continue
        shared, answer = one
        batch.prompt_BP[row, :shared] = answer.ids[:shared]
        batch.prompt_positions_BP[row, :shared] = np.arange(shared)
        ids = answer.ids[shared:]
        pairs = len(ids) - 1
        batch.tokens_BT[row, :pairs] = ids[:-1]
        batch.targets_BT[row, :pairs] = ids[1:]
        batch.positions_BT[row, :pairs] = shared + np.arange(pairs)
        batch.weights_BT[row, answer.start - 1 - shared : pairs] = answer.sign
    return batch


def _empty(rows: int, prompt_length: int, length: int) -> Any:
    """Padding alone."""
    shape, prompt_shape = (rows, length), (rows, prompt_length)
    zeros, padding = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    arrays: Any = (zeros, zeros.copy(), np.zeros(shape, np.float32), padding)
    prompts: Any = (np.zeros(prompt_shape, np.int32), np.full(prompt_shape, -1, np.int32))
    return PreferenceBatch(*arrays, *prompts)


def _in_place(answer: Answer, other: Answer) -> Answer:
    """The other answer to this one's prompt; it counts with sign 1."""
    ids = np.concatenate([answer.ids[: answer.start], other.ids[other.start :]])
    return Answer(ids, answer.start, 1)
