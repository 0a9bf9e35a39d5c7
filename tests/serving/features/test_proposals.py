# SPDX-License-Identifier: Apache-2.0
"""What followed where the last tokens stood before."""

import numpy as np

from recurrentgemma.generation.sampling import Sampling
from serving.features.proposals import LOOKED_AT, NgramProposals, NgramProposer


def test_the_longest_known_ngram_counts():
    proposals = NgramProposals([1, 2, 3, 4, 5, 9, 3, 4, 6, 1, 2, 3, 4])
    assert proposals.next(3) == [5, 9, 3]  # after 1 2 3 4, though 3 4 was last followed by 6
    proposals.extend([7])
    assert proposals.next(3) == []
    proposals.extend([3, 4])
    assert proposals.next(1) == [7]  # the last place of 3 4


def test_what_repeats_goes_on_repeating():
    assert NgramProposals([8, 1, 2, 1, 2, 1, 2]).next(5) == [1, 2, 1, 2, 1]


def test_nothing_known():
    assert NgramProposals([5]).next(4) == []
    assert NgramProposals([5, 6, 7]).next(4) == []


def test_a_long_prompt_is_looked_at_from_its_end():
    tokens = np.arange(LOOKED_AT + 10)
    tokens[[0, 1, -2, -1]] = 7, 8, 7, 8
    assert NgramProposals(tokens.tolist()).next(2) == []


def test_each_slot_has_its_own():
    proposer = NgramProposer()
    proposer.warm_up()
    proposer.begin(0, [1, 2, 3, 1, 2], Sampling())
    proposer.begin(1, [1, 2, 4, 1], Sampling())
    proposer.extend(1, [2])
    assert proposer.next({0: 1, 1: 1}, {0: 0, 1: 0}) == {0: [3], 1: [4]}
