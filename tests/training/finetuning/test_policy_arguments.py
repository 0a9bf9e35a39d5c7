# SPDX-License-Identifier: Apache-2.0
"""Options of one way to learn are refused with another."""

import pytest

from recurrentgemma.errors import UserError
from training.finetuning.policy_arguments import PolicyArguments


def test_what_was_given():
    given = PolicyArguments(method="grpo", group_size=4, kl=0.0, reward="a.py:f").given()
    assert given == {"group_size": 4, "kl": 0.0, "reward": "a.py:f"}
    assert PolicyArguments(method="ppo", trace=1.0).given() == {"trace": 1.0}
    assert PolicyArguments().given() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (PolicyArguments(max_new_tokens=8), "--max-new-tokens has no effect .* examples: .* ppo"),
        (PolicyArguments(reward="a.py:f"), "--reward has no effect with --method examples"),
        (PolicyArguments(method="ppo", group_size=8), "--group-size .* ppo: .* --method grpo"),
        (PolicyArguments(method="grpo", trace=1.0), "--trace has no effect with --method grpo"),
    ],
)
def test_options_of_another_method(arguments: PolicyArguments, message: str):
    with pytest.raises(UserError, match=message):
        arguments.given()
