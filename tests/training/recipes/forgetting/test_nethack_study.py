# SPDX-License-Identifier: Apache-2.0
"""The arms of the short experiment and of the paper's runs."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from training.recipes.forgetting.nethack_study import (
    INTERVENTIONS,
    NETHACK,
    NETHACK_PAPER,
    PAPER_STEPS,
    conclude,
    small_arms,
)


def test_short_arms():
    arms = small_arms()
    assert set(arms) <= set(INTERVENTIONS)
    assert NETHACK.arms == arms
    assert arms["lstm/scratch"].choices.frozen == ()
    assert not arms["lstm/scratch"].critic_steps
    assert arms["lstm/ks"].choices.frozen == ("encoder",)
    assert arms["lstm/ks"].choices.entropy == 0 < arms["lstm/fine-tuning"].choices.entropy
    of_core = {arm.teaching for name, arm in arms.items() if name.startswith("lstm")}
    assert len(of_core) == 1  # one copy for all of them


def test_the_papers_runs():
    options = dataclasses.replace(NETHACK_PAPER.options, interventions=("lstm/ks", "hawk/bc"))
    arms = NETHACK_PAPER.experiment(options).arms
    assert list(arms) == ["NetHackChallenge/1/lstm/ks", "NetHackChallenge/1/hawk/bc"]
    arm = arms["NetHackChallenge/1/lstm/ks"]
    assert arm.network.core.width == 1738
    assert arm.game.challenge
    assert (arm.weight.start, arm.weight.decay) == (0.5, 0.99998)
    assert arm.schedule.steps == PAPER_STEPS
    assert arm.critic_steps == 500_000_000
    for wrong, message in (
        ({"interventions": ("lstm/kss",)}, "--interventions 'lstm/kss'"),
        ({"environments": ("NetHack",)}, "expected NetHackScore or NetHackChallenge"),
    ):
        with pytest.raises(UserError, match=message):
            NETHACK_PAPER.experiment(dataclasses.replace(options, **wrong))


def test_a_conclusion():
    curves = {"return": [1.0, 2.0], "held_loss": [2.0, 1.0]}
    curves |= {"steps_per_second": [100.0, 100.0], "environment_share": [0.5, 0.5]}
    findings = conclude({"lstm/ks": [{"curves": curves}]})
    assert findings.numbers["ends"]["lstm/ks"]["held_loss"]["last"]["mean"] == 1.0
    assert findings.numbers["price"]["lstm/ks"]["steps"] == PAPER_STEPS
    assert "held_loss 2 to 1" in findings.verdict
