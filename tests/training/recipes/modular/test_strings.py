# SPDX-License-Identifier: Apache-2.0
"""Rules and their order, supports of equal size, and rows of which the answers are learned."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.modular.strings import (
    FACTORS,
    KINDS,
    LETTERS,
    LONGEST,
    ROW,
    SHORTEST,
    VALUES,
    connected,
    examples,
    name_of,
    support,
    transformed,
)


def test_rules():
    wanted = {
        (0, 0, 0): "abcdh",
        (1, 0, 0): "hdcba",
        (2, 0, 0): "bcdha",
        (3, 0, 0): "cdhab",
        (0, 1, 0): "bcdea",
        (0, 2, 0): "ABCDH",
        (0, 3, 0): "defgc",
        (0, 0, 1): "(abcdh)",
        (0, 0, 2): "abcdhh",
        (0, 0, 3): "a-b-c-d-h",
        (1, 2, 1): "(HDCBA)",
    }
    for values, text in wanted.items():
        assert transformed(values, "abcdh") == text
    assert name_of((1, 2, 1)) == "reverse upper quote"
    assert all(len(rules) == VALUES for rules in FACTORS.values())


def test_supports_are_of_equal_size_and_hold_out_the_same():
    splits = {kind: support(kind) for kind in KINDS}
    for split in splits.values():
        assert len(split.train_CF) == 16
        for factor in range(3):  # each value as often
            assert np.bincount(split.train_CF[:, factor]).tolist() == [4] * VALUES
        np.testing.assert_array_equal(split.out_CF, splits["ring"].out_CF)
        trained = {tuple(row) for row in split.train_CF.tolist()}
        assert not trained & {tuple(row) for row in split.out_CF.tolist()}
    assert len(splits["ring"].out_CF) == 30
    assert [connected(splits[kind].train_CF) for kind in KINDS] == [True, True, False]
    spread = {tuple(row[:2]) for row in splits["spread"].train_CF.tolist()}
    assert len(spread) == 16  # any two values of two factors meet
    with pytest.raises(UserError, match="support 'star': expected one of spread, ring"):
        support("star")  # type: ignore[arg-type]


def test_rows_learn_the_answer_alone():
    combinations_BF = np.array([[1, 2, 1], [0, 0, 0]])
    batch = examples(combinations_BF, np.random.default_rng(0))
    again = examples(combinations_BF, np.random.default_rng(0))
    for row, values in enumerate(combinations_BF):
        size = int((np.asarray(batch.positions_BT)[row] >= 0).sum())
        ids = [*batch.tokens_BT[row, :size].tolist(), int(batch.targets_BT[row, size - 1])]
        text, _, answer = bytes(ids).decode().partition(">")
        assert SHORTEST <= len(text) <= LONGEST
        assert set(text) <= set(LETTERS)
        assert answer == transformed(values.tolist(), text) + "\n"
        learned = np.flatnonzero(batch.weights_BT[row])
        assert learned.tolist() == list(range(len(text), size))
        assert bytes(np.asarray(batch.targets_BT)[row, learned].tolist()).decode() == answer
    for one, other in zip(batch, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_longest_fits_a_row():
    text = LETTERS[:LONGEST]
    longest = max(len(transformed(values, text)) for values in np.ndindex(VALUES, VALUES, VALUES))
    assert len(text) + 1 + longest + 1 - 1 <= ROW
