# SPDX-License-Identifier: Apache-2.0
"""The arms of the short experiment and of the paper's runs."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from training.recipes.forgetting.montezuma_study import (
    MONTEZUMA,
    MONTEZUMA_PAPER,
    PAPER_STEPS,
    conclude,
    small_arms,
)


def test_short_arms():
    arms = small_arms()
    assert list(arms) == ["scratch", "fine-tuning", "bc", "ks", "ewc"]
    assert MONTEZUMA.arms == arms
    assert len({arm.teaching for arm in arms.values()}) == 1
    assert arms["scratch"].critic_updates == 0 < arms["bc"].critic_updates


def test_the_papers_runs():
    options = dataclasses.replace(MONTEZUMA_PAPER.options, interventions=("bc",))
    arms = MONTEZUMA_PAPER.experiment(options).arms
    assert list(arms) == ["4/bc"]
    choices = arms["4/bc"].choices
    assert (choices.environments, choices.rollout, choices.curiosity.outputs) == (128, 128, 512)
    assert (choices.extrinsic, choices.intrinsic, choices.discount) == (2.0, 1.0, 0.999)
    assert arms["4/bc"].first_far == 7
    assert arms["4/bc"].schedule.steps == PAPER_STEPS
    for wrong, message in (
        ({"interventions": ("em",)}, "--interventions 'em'"),
        ({"environments": ("ALE/Pong-v5",)}, "expected ALE/MontezumaRevenge-v5"),
    ):
        with pytest.raises(UserError, match=message):
            MONTEZUMA_PAPER.experiment(dataclasses.replace(options, **wrong))


def test_a_conclusion():
    curves = {"return": [None, 0.0], "held_loss": [2.0, 1.0]}
    curves |= {"steps_per_second": [100.0, 100.0], "environment_share": [0.5, 0.5]}
    findings = conclude({"bc": [{"curves": curves}]})
    assert findings.numbers["price"]["bc"]["frames_per_second"] == 400  # four of a step
