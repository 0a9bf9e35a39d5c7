# SPDX-License-Identifier: Apache-2.0
"""The paper's settings, and arms that differ in what they say."""

from training.recipes.pfo.arms import ATARI, MINATAR_CHOICES, interventions, mujoco


def test_the_papers_settings():
    assert (ATARI.environments * ATARI.rollout, ATARI.minibatch, ATARI.clip) == (1024, 256, 0.1)
    hopper = mujoco()
    assert (hopper.environments * hopper.rollout, hopper.minibatch, hopper.clip) == (2048, 64, 0.2)
    assert hopper.actor.style.activation == "relu"


def test_interventions():
    of_pictures, of_numbers = interventions(MINATAR_CHOICES), interventions(mujoco())
    assert [of_pictures[f"PFO {which}"].feature_beta for which in ("last", "all")] == [1, 10]
    assert of_numbers["PFO last"].feature_beta == 10
    assert interventions(mujoco("tanh"))["PFO all"].feature_beta == 1
    assert of_pictures["none"] == MINATAR_CHOICES
    assert (of_pictures["equal betas"].b1, of_pictures["equal betas"].b2) == (0.9, 0.9)
    assert of_pictures["shared trunk"].shared
    assert of_pictures["reset Adam"].reset_optimizer
