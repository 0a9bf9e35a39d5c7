# SPDX-License-Identifier: Apache-2.0
"""Streams are learned; arms and seeds side by side are what each is alone."""

import dataclasses

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.plasticity.small_pictures import small_pictures
from training.recipes.experiment import Cell
from training.recipes.plasticity import train
from training.recipes.plasticity.learner import Choices
from training.recipes.plasticity.streams import Stream
from training.recipes.plasticity.train import StreamArm, run_group, train_streams
from training.recipes.rl.heads import Head
from training.recipes.vision.mlp import MLPConfig

CHOICES = Choices(network=MLPConfig(widths=(24,)), learning_rate=1e-2)
ARM = StreamArm(
    choices=CHOICES,
    stream=Stream(tasks=2, steps=120, batch_size=20),
    images=40,
    measured=40,
    full=True,
)


def test_random_labels_are_learned_side_by_side_as_alone():
    slow = dataclasses.replace(ARM, choices=dataclasses.replace(CHOICES, learning_rate=1e-5))
    cells = [Cell("fast", ARM, 0), Cell("slow", slow, 0), Cell("fast", ARM, 1)]
    fast, slow, other = run_group(cells, small_pictures())
    assert min(fast["accuracy"] + other["accuracy"]) > 0.9
    assert max(slow["accuracy"]) < 0.8
    assert fast["accuracy"] != other["accuracy"] or fast["points"] != other["points"]
    assert {len(curve) for curve in fast["points"].values()} == {4}
    assert {len(curve) for curve in fast["panel"].values()} == {2}
    assert fast["points"]["loss"][1] < fast["points"]["loss"][0]
    assert fast["points"]["loss"][2] > fast["points"]["loss"][1]  # new labels
    alone = run_group([cells[2]], small_pictures())[0]
    np.testing.assert_allclose(alone["points"]["loss"], other["points"]["loss"], rtol=1e-2)
    np.testing.assert_allclose(alone["accuracy"], other["accuracy"], atol=0.03)


def test_points_divide_the_steps():
    with pytest.raises(UserError, match="points=7: expected a divisor of a task's 120 steps"):
        dataclasses.replace(ARM, points=7)


def test_labels_take_no_head_of_numbers():
    choices = dataclasses.replace(CHOICES, head=Head(kind="two_hot", bins=5, low=0.0, high=1.0))
    with pytest.raises(UserError, match="a head of two_hot with a stream of labels"):
        dataclasses.replace(ARM, choices=choices)


def test_numbers_are_learned_with_a_target_s_offset(monkeypatch):
    monkeypatch.setattr(train, "pictures", lambda source, count: small_pictures())
    stream = Stream(
        kind="targets", tasks=2, steps=120, batch_size=20, offset=3.0, last_offset=False
    )
    arm = dataclasses.replace(ARM, stream=stream, full=False, points=1)
    ((cell, numbers),) = train_streams([Cell("x", arm, 0)])
    assert cell.arm == "x"
    assert numbers["error"][0] < 1
    assert numbers["error"][1] < 1
    assert "panel" not in numbers
