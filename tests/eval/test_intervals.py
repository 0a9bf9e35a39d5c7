# SPDX-License-Identifier: Apache-2.0
"""Intervals hold the true mean as often as they say, and know what belongs together."""

import math

import numpy as np
import pytest

from eval.intervals import (
    bootstrap,
    change,
    method,
    over_documents,
    t_interval,
    t_intervals,
)
from recurrentgemma.errors import UserError


def test_students_interval_is_the_textbooks():
    interval = t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert interval == pytest.approx((2.0, 2 - half, 2 + half, 3), rel=1e-6)
    mean, low, high, count = t_interval([5.0])
    assert (mean, count) == (5.0, 1)
    assert math.isnan(low)
    assert math.isnan(high)
    with pytest.raises(UserError, match="over no values"):
        t_interval([])


@pytest.mark.parametrize(("documents", "interval"), [(4, t_intervals), (40, bootstrap)])
def test_they_hold_the_mean_as_often_as_they_say(documents: int, interval):
    random, inside = np.random.default_rng(0), 0
    for _ in range(300):
        counts_U1 = random.integers(50, 150, (documents, 1))
        losses_U1 = 2.0 + 0.3 * random.normal(size=(documents, 1))
        (ends,) = interval(losses_U1 * counts_U1, counts_U1)
        inside += ends.low <= 2.0 <= ends.high
    assert 0.90 <= inside / 300 <= 0.99


def test_the_mean_is_over_tokens_and_empty_buckets_have_none():
    sums_UK, counts_UK = np.array([[2.0, 0], [10.0, 0]]), np.array([[1, 0], [9, 0]])
    first, second = bootstrap(sums_UK, counts_UK)
    assert first.mean == 1.2
    assert (first.low, first.high) == (10 / 9, 2.0)
    assert second.count == 0
    assert math.isnan(second.mean)
    first, second = t_intervals(sums_UK, counts_UK)
    assert first.mean == pytest.approx((2 + 10 / 9) / 2)
    assert second.count == 0


def test_what_belongs_together_is_drawn_together():
    """Ten copies of a document tell no more than one."""
    random = np.random.default_rng(1)
    losses_U1, counts_U1 = random.normal(size=(12, 1)), np.ones((12, 1), np.int64)
    groups_U = np.repeat(np.arange(12), 10)
    alone = over_documents(losses_U1, counts_U1)
    copies = [np.repeat(x, 10, axis=0) for x in (losses_U1, counts_U1)]
    assert over_documents(*copies, groups_U=groups_U) == [pytest.approx(i) for i in alone]
    (narrow,) = over_documents(*copies)
    assert narrow.high - narrow.low < 0.5 * (alone[0].high - alone[0].low)


def test_few_documents_are_students():
    random = np.random.default_rng(2)
    sums_U1, counts_U1 = random.normal(size=(9, 1)), np.ones((9, 1), np.int64)
    assert over_documents(sums_U1, counts_U1) == t_intervals(sums_U1, counts_U1)
    assert method(9) == "95% intervals, Student's t over 9 documents"
    assert method(10, "seeds") == "95% intervals, bootstrap over 10 seeds"
    assert method(1) == "no intervals: they need two documents or more"


@pytest.mark.parametrize("documents", [5, 50])
def test_a_change_is_that_of_the_same_documents(documents: int):
    """Documents differ by 1 nat, and every one of them loses 0.1."""
    random = np.random.default_rng(3)
    losses_U1 = 3 + random.normal(size=(documents, 1))
    noise_U2 = 0.01 * random.normal(size=(documents, 2))
    losses_U2 = losses_U1 + np.array([0.1, 0.0]) + noise_U2
    interval = change(100 * losses_U2, np.full((documents, 2), 100))
    assert -0.13 < interval.low < -0.1 < interval.high < -0.07
    assert interval.count == documents
    missing = change(losses_U2, np.array([[1, 0]] * documents))
    assert missing.count == 0
