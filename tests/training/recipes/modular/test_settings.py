# SPDX-License-Identifier: Apache-2.0
"""The authors' settings, and that the small ones have the same kinds of learners."""

import pytest

from training.recipes.modular.settings import (
    LEARNERS,
    goal_settings,
    hyperteacher_settings,
    preference_settings,
)


def test_the_authors_settings():
    teacher = hyperteacher_settings(16)
    linear, anil = teacher["linear"], teacher["ANIL"]
    assert (linear.learner.templates, linear.learner.width, linear.learner.depth) == (64, 128, 3)
    assert (linear.inner.learning_rate, linear.inner.steps, linear.outer_rate) == (0.3, 10, 1e-3)
    assert (anil.inner.steps, anil.inner.batch, anil.learner.width) == (100, 64, 512)
    assert teacher["non-linear"].clip == 1.0
    assert preference_settings()["non-linear"].learner.depth == 2
    assert goal_settings()["MAML"].learner.width == 384


@pytest.mark.parametrize(
    ("paper", "small"),
    [
        (hyperteacher_settings(8), hyperteacher_settings(8, small=True)),
        (preference_settings(), preference_settings(small=True)),
        (goal_settings(), goal_settings(small=True)),
    ],
)
def test_small_ones_are_of_the_same_kinds(paper, small):
    assert tuple(paper) == tuple(small) == LEARNERS
    for name in LEARNERS:
        assert type(paper[name].learner) is type(small[name].learner)
        assert small[name].learner.width <= paper[name].learner.width
        assert small[name].clip == paper[name].clip


def test_an_arm():
    family = object()
    arm = goal_settings()["linear"].arm(family, steps=20, tasks=4, test_shots=(2,))
    assert (arm.family, arm.steps, arm.tasks, arm.test_shots) == (family, 20, 4, (2,))
    assert arm.outer_rate == 3e-3
