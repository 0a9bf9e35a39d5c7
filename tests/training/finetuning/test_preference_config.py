# SPDX-License-Identifier: Apache-2.0
"""PreferenceConfig: what can be, and in which runs."""

import dataclasses
import os

import pytest

from recurrentgemma.errors import UserError
from training.configs import TrainConfig
from training.data.config import DataConfig
from training.finetuning.preference_config import PreferenceConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ipo"}, "expected dpo or kto"),
        ({"beta": 0.0}, "beta=0.0: expected a number above 0"),
        ({"label_smoothing": 0.5}, "expected 0 or more, and below 0.5"),
        ({"desirable_weight": 2.0}, "desirable_weight=2.0 has no effect with method=dpo"),
        ({"method": "kto", "label_smoothing": 0.1}, "label_smoothing has no effect with"),
        ({"method": "kto", "undesirable_weight": -1.0}, "expected a number above 0"),
    ],
)
def test_configs_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        PreferenceConfig(**fields)


def test_in_a_run(small: TrainConfig):
    def changed(**fields) -> TrainConfig:
        given = {"preference": PreferenceConfig(), "init_from": "base", "text": ()}
        return dataclasses.replace(small, data=DataConfig(epochs=1.0), **given | fields)

    assert changed().preference == PreferenceConfig()
    for fields, message in (
        ({"init_from": ""}, "preference without init_from"),
        ({"text": ("a.txt",)}, "preference beside policy, text or data.sources"),
        ({"grad_accumulation_steps": 4}, "in 4 parts: choose a multiple of 8"),
        ({"diagnostics_every": 2}, "diagnostics_every=2 has no effect with preferences"),
    ):
        with pytest.raises(UserError, match=message):
            changed(**fields)
    with pytest.raises(UserError, match=r"preference without data\.epochs"):
        dataclasses.replace(changed(), data=DataConfig())


def test_paths():
    config = PreferenceConfig(pairs=("a.jsonl",)).with_absolute_paths()
    assert config.pairs == (os.path.abspath("a.jsonl"),)
