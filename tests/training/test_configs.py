# SPDX-License-Identifier: Apache-2.0
"""What a config refuses, and its JSON."""

import dataclasses
import json

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.presets import PRESETS, recurrentgemma_2b
from training.configs import TrainConfig
from training.data.config import DataConfig
from training.named_runs import run_named


@pytest.mark.parametrize("field", ["steps", "batch_size", "sequence_length", "save_every", "keep"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0: expected a whole number of at least 1"):
        dataclasses.replace(run_named("tiny_bytes"), **{field: 0})


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"warmup_steps=100 leaves nothing of steps=100"):
        TrainConfig(model=recurrentgemma_2b(), steps=100)
    mqa = dataclasses.replace(PRESETS["mqa_100m"](), context_length=64)
    with pytest.raises(ValueError, match=r"sequence_length=512 is longer .*context_length=64"):
        TrainConfig(model=mqa)
    with pytest.raises(ValueError, match=r"_steps=3 does not divide batch_size=8; choose 2"):
        dataclasses.replace(run_named("tiny_bytes"), grad_accumulation_steps=3)
    with pytest.raises(UserError, match="steps=2147483648: expected at most 2147483647"):
        dataclasses.replace(run_named("tiny_bytes"), steps=2**31)
    both = {"text": ("a",), "data": DataConfig(sources=("text:b",))}
    with pytest.raises(ValueError, match=r"both text and data\.sources say what to train on"):
        dataclasses.replace(run_named("tiny_bytes"), **both)
    for name, value in (("seed", -1), ("seed", 2**32), ("z_loss", -1.0), ("z_loss", float("nan"))):
        with pytest.raises(ValueError, match=f"{name}={value}: expected 0"):
            dataclasses.replace(run_named("tiny_bytes"), **{name: value})


def test_a_config_and_its_json():
    config = dataclasses.replace(
        run_named("tiny_bytes"), data=DataConfig(sources=("text:a", "text:b"), weights=(1.0, 2.0))
    )
    fields = json.loads(json.dumps(config.to_json()))
    assert TrainConfig.from_json(config.model, fields) == config
    with pytest.raises(UserError, match=r"unknown TrainConfig field 'stpes' \(did"):
        TrainConfig.from_json(config.model, {**fields, "stpes": 1})
