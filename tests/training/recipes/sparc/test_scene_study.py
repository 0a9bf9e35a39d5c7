# SPDX-License-Identifier: Apache-2.0
"""The study of scenes, small: it learns, measures all splits, and concludes from its numbers."""

import dataclasses

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.things import things
from training.recipes.experiment import Cell
from training.recipes.sparc import scene_arrays, scene_study
from training.recipes.sparc.scene_study import (
    MIXING,
    SCENES,
    TOWERS,
    SceneArm,
    chosen,
    conclude,
    family,
    measure,
)
from training.recipes.sparc.scenes import SceneConfig

ARM = SceneArm(
    scene=SceneConfig(side=16, says="place"),
    things=None,
    train=64,
    measured=16,
    width=16,
    depth=1,
    patch=4,
    steps=60,
    batch_size=16,
    learning_rate=3e-3,
)
NAMES = {"i2t R@1", "i2t R@5", "t2i R@1", "t2i R@5", "mIoU", "K-precision", "gap"}


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a package's pictures."""
    monkeypatch.setattr(scene_arrays, "things_of", lambda style, count=None: tuple(things()))
    monkeypatch.setattr(scene_study, "things_of", lambda style, count=None: tuple(things()))
    scene_arrays.scene_arrays.cache_clear()
    scene_study.vocabulary.cache_clear()


@pytest.mark.parametrize(
    "change",
    [
        {},
        pytest.param(
            {"text": "griffin both ways", "pretrained": 20, "mixing": 0}, marks=pytest.mark.slow
        ),
    ],
    ids=["transformer", "griffin"],
)
def test_it_learns(change: dict):
    arm = dataclasses.replace(ARM, local_weight=0.5, **change)
    ((cell, numbers),) = measure([Cell("sparc 0.5", arm, 0)])
    assert cell.seed == 0
    for split in ("validation", "test", "new"):
        alone = {"zero-shot", "zero-shot, other style"} if split == "test" else set()
        assert NAMES | {"colours swapped", "order swapped"} | alone == numbers[split].keys()
    assert len(numbers["loss"]) == len(numbers["gap"]) == 60
    assert np.mean(numbers["loss"][-5:]) < numbers["loss"][0] - 0.3


def test_arms():
    assert {family(arm) for arm in SCENES.arms} == {
        *("clip", "sparc", "no sparsity", "softmax", "gloria", "filip")
    }
    assert [arm.local_weight for name, arm in SCENES.arms.items() if family(name) == "sparc"] == [
        *(0.1, 0.5, 1.0, 5.0)
    ]
    assert [arm.mixing for arm in MIXING.arms.values()] == [0, 0, 1, 1, 2, 2]
    for arm in (*SCENES.arms.values(), *TOWERS.arms.values(), *MIXING.arms.values()):
        arm.towers(vocab_size=100)
        scene_study.objective(arm)
    assert [name for name, arm in TOWERS.arms.items() if arm.pretrained] == [
        *("griffin, pretrained", "griffin both ways, pretrained")
    ]
    with pytest.raises(UserError, match="no language model"):
        dataclasses.replace(ARM, pretrained=1)


def cells(validation: float, test: float) -> list[dict]:
    numbers = dict.fromkeys(("i2t R@1", "t2i R@1", "colours swapped", "mIoU", "K-precision"), 0.0)
    numbers |= {"zero-shot": 0.0, "zero-shot, other style": 0.0}
    return [
        {
            "validation": {**numbers, "gap": 0.0, "mIoU": validation},
            "test": {**numbers, "gap": 0.1, "mIoU": test + 0.01 * seed},
            "loss": [2.0, 1.0],
            "gap": [0.0, 0.1],
        }
        for seed in range(3)
    ]


def test_weights_are_chosen_on_validation_scenes(tmp_path):
    arms = {"clip": cells(0.2, 0.3), "sparc 0.1": cells(0.5, 0.4), "sparc 5": cells(0.4, 0.9)}
    assert chosen(arms) == {"clip": "clip", "sparc": "sparc 0.1"}
    findings = conclude(arms, against="clip")
    assert "sparc 0.1: i2t R@1 +0.000" in findings.verdict
    assert "mIoU +0.100*" in findings.verdict
    assert findings.numbers["difference"]["sparc 0.1"]["mIoU"]["mean"] == pytest.approx(0.1)
    for name, draw in findings.plots.items():
        draw(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
