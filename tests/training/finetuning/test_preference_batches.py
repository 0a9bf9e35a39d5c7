# SPDX-License-Identifier: Apache-2.0
"""Every preference once an epoch, in rows that come in twos, gone on with where it was."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.finetuning.preference_batches import PreferenceBatches, rows_of
from training.finetuning.preferences import Answer, Preference


def pair(number: int, length: int = 10) -> Preference:
    ids = np.full(length, number, np.int32)
    return Preference(
        f"file:{number}", (Answer(ids, 4, 1), Answer(np.append(ids[:4], [99, 98]), 4, -1))
    )


def judged(number: int, sign: int, start: int = 3, length: int = 8) -> Preference:
    return Preference(f"file:{number}", (Answer(np.arange(length) + 100 * number, start, sign),))


PAIRS = [pair(number) for number in range(1, 8)]


def batches(examples=PAIRS, **changes) -> PreferenceBatches:
    given = {"batch_size": 4, "row_length": 512, "seed": 0, "epochs": 2.0}
    return PreferenceBatches(examples, **given | changes)


def test_each_epoch_has_every_pair_once():
    given = list(batches())
    assert len(given) == batches().count == 7  # 14 pairs, two in a batch
    first = [int(row[0]) for batch in given for row in batch.prompt_BP[::2]]
    assert sorted(first[:7]) == sorted(first[7:]) == list(range(1, 8))
    assert first[:7] != first[7:]
    assert [float(np.sign(batch.weights_BT.sum(1))[1]) for batch in given] == [-1.0] * 7


def test_rows():
    batch = rows_of([pair(5), None], prompt_length=4, length=8)
    np.testing.assert_array_equal(batch.prompt_BP[0], [5, 5, 5, 0])
    np.testing.assert_array_equal(batch.prompt_positions_BP[:2], [[0, 1, 2, -1]] * 2)
    np.testing.assert_array_equal(batch.positions_BT[0], [*range(3, 9), -1, -1])
    np.testing.assert_array_equal(batch.weights_BT[0], [1] * 6 + [0] * 2)
    np.testing.assert_array_equal(batch.weights_BT[1], [-1] * 2 + [0] * 6)
    np.testing.assert_array_equal(batch.tokens_BT[1, :2], [5, 99])
    np.testing.assert_array_equal(batch.targets_BT[1, :2], [99, 98])
    assert (batch.positions_BT[2:] == -1).all()
    assert (batch.prompt_positions_BP[2:] == -1).all()
    assert (batch.weights_BT[2:] == 0).all()


def test_answers_that_begin_at_other_tokens():
    """A tokenizer may join the prompt's end with the answer's beginning."""
    answers = (Answer(np.array([1, 2, 3, 4, 5]), 3, 1), Answer(np.array([1, 2, 9, 8, 7]), 4, -1))
    batch = rows_of([Preference("file:1", answers)], prompt_length=2, length=4)
    np.testing.assert_array_equal(batch.prompt_BP, [[1, 2]] * 2)
    np.testing.assert_array_equal(batch.tokens_BT, [[3, 4, 0, 0], [9, 8, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BT, [[1, 1, 0, 0], [0, -1, 0, 0]])
    one = Preference("file:2", (Answer(np.array([1, 2]), 1, 1), Answer(np.array([1, 3]), 1, -1)))
    batch = rows_of([one], prompt_length=1, length=1)  # nothing but the document's first token
    np.testing.assert_array_equal(batch.prompt_positions_BP, [[-1], [-1]])
    np.testing.assert_array_equal(batch.targets_BT, [[2], [3]])


def test_the_second_row_of_kto_is_the_next_answer():
    batch = rows_of([judged(1, 1), judged(2, -1, start=5), None], prompt_length=8, length=8)
    assert [int(s) for s in np.sign(batch.weights_BT.sum(1))] == [1, 1, -1, 1, 0, 0]
    np.testing.assert_array_equal(batch.prompt_BP[1, :2], [100, 101])
    np.testing.assert_array_equal(batch.tokens_BT[1, :3], [102, 205, 206])
    np.testing.assert_array_equal(batch.targets_BT[3, :5], [103, 104, 105, 106, 107])


def test_the_lengths_are_the_shortest_that_fit():
    lengths = {length: batches([pair(1, length)], batch_size=2) for length in (10, 69, 133, 403)}
    assert {n: next(given).tokens_BT.shape for n, given in lengths.items()} == {
        10: (2, 64),
        69: (2, 128),
        133: (2, 256),
        403: (2, 512),
    }
    odd = batches([pair(1)], batch_size=2, row_length=96, multiple=96)
    assert next(odd).tokens_BT.shape == (2, 96)
    mixed = batches([judged(1, 1, start=66, length=68), judged(2, 1, start=2, length=140)])
    batch = next(mixed)
    assert batch.prompt_BP.shape == (4, 128)
    assert batch.tokens_BT.shape == (4, 256)


def test_it_goes_on_where_it_was():
    whole = list(batches())
    part = batches()
    next(part)
    state = part.state()
    again = batches()
    again.restore(state)
    others = list(again)
    assert len(others) == 6
    for a, b in zip(others, whole[1:], strict=True):
        np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
    assert again.epoch == 2.0
    with pytest.raises(UserError, match="the preferences are not the saved run's"):
        batches(PAIRS[:3]).restore(state)
    with pytest.raises(UserError, match="steps=3, but the preferences are 7 batches"):
        part.check_steps(3)
    with pytest.raises(UserError, match="there are no preferences"):
        batches([])


def test_the_rows_of_a_process():
    own = next(batches(rows=range(2, 4)))
    whole = next(batches())
    np.testing.assert_array_equal(own.tokens_BT, whole.tokens_BT[2:4])
