# SPDX-License-Identifier: Apache-2.0
"""What a PolicyConfig refuses, alone and in a TrainConfig, and that config.json holds it."""

import dataclasses
import os

import pytest

from recurrentgemma.errors import UserError
from tests.training.finetuning.small_policy import policy_config
from training.configs import TrainConfig
from training.finetuning.policy_config import PolicyConfig


def test_errors():
    good = PolicyConfig(method="grpo", prompts=("p",), group_size=8)

    def error(message: str, **changes: object) -> None:
        with pytest.raises(UserError, match=message):
            dataclasses.replace(good, **changes)

    error("rollout=0: expected at least 1", rollout=0)
    error("kl=-1: expected 0 or a number above", kl=-1)
    error("pfo=inf", pfo=float("inf"))
    error("clip=1.0: expected a number between 0 and 1", clip=1.0)
    error("trace=1.5: expected a number from 0 to 1", trace=1.5)
    error("no prompts: name at least one file", prompts=())
    error("group_size=1: expected at least 2", group_size=1)
    error("group_size=7 does not divide rollout=64; choose 8", group_size=7)
    with pytest.raises(UserError, match=r"batch_size=24, .*does not divide rollout=64; choose"):
        good.check_minibatch(24)
    assert good.updates(16) == 16


def test_in_a_run(small: TrainConfig):
    config = policy_config(small, reward="rewards.py:reward")
    assert TrainConfig.from_json(config.model, config.to_json()) == config
    whole = config.with_absolute_paths().policy
    assert whole is not None
    assert whole.reward == f"{os.getcwd()}/rewards.py:reward"
    assert whole.prompts == (f"{os.getcwd()}/p",)
    with pytest.raises(UserError, match="does not divide rollout=4"):
        policy_config(small, batch_size=3)
    with pytest.raises(UserError, match="max_new_tokens=32 leaves nothing of sequence_length=32"):
        policy_config(small, max_new_tokens=32)
    with pytest.raises(UserError, match="policy without init_from"):
        dataclasses.replace(config, init_from="")
