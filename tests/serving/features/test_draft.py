# SPDX-License-Identifier: Apache-2.0
"""A draft that is the model itself guesses what the model generates, in every slot."""

import pytest

from recurrentgemma.generation.sampling import Sampling
from serving.features.draft import CONTEXT, DraftProposals


@pytest.fixture(scope="module")
def lm(language_model):
    return language_model("griffin")


def test_it_guesses_what_it_would_generate(lm):
    draft = DraftProposals(lm, lm, 2, width=4)
    draft.warm_up()
    prompts = {0: [65, 66, 67], 1: [70] * (CONTEXT + 20)}
    greedy, drawn = Sampling(), Sampling(temperature=1.0, seed=5)
    samplings = {0: greedy, 1: drawn}
    expected = {}
    for slot, prompt in prompts.items():
        draft.begin(slot, prompt, samplings[slot])
        sampling = Sampling(
            max_tokens=8,
            ignore_eos=True,
            temperature=samplings[slot].temperature,
            seed=samplings[slot].seed,
        )
        seen = prompt[-CONTEXT - 1 :]
        expected[slot] = lm.complete([seen], sampling=sampling)[0].tokens
    assert draft.next({0: 3, 1: 2}, {0: 0, 1: 0}) == {0: expected[0][:3], 1: expected[1][:2]}
    for slot, count in ((0, 4), (1, 1)):
        draft.extend(slot, expected[slot][:count])
    after = draft.next({0: 3, 1: 3}, {0: 4, 1: 1})
    assert after == {0: expected[0][4:7], 1: expected[1][1:4]}
    assert draft.next({}, {}) == {}
