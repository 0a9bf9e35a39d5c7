# SPDX-License-Identifier: Apache-2.0
"""The choices of dynamic evaluation: what they refuse, and that they survive a file."""

import json
from typing import Any

import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig, ReplayConfig
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from tests.eval.dynamic.small import PLAIN, RICH

CODE: dict[str, Any] = {"parameters": "code", "templates": "here"}


def test_they_survive_json():
    for choices in (
        DynamicConfig(),
        PLAIN,
        RICH,
        DynamicConfig(replay=ReplayConfig(rows=2)),
        DynamicConfig(**CODE),
    ):
        assert DynamicConfig.from_json(json.loads(json.dumps(choices.to_json()))) == choices


def test_lengths():
    assert (RICH.tokens_read, RICH.targets) == (11, 11)
    assert (PLAIN.tokens_read, PLAIN.targets) == (8, 8)
    static = RICH.static()
    assert not static.learns
    assert (static.segment_length, static.overlap, static.targets) == (8, 3, 8)


def test_each_algorithm_has_a_rate_of_its_own():
    assert OptimizerConfig().rate == OptimizerConfig(algorithm="sgd").rate == 0.1
    assert OptimizerConfig(algorithm="adam").rate == 1e-3
    assert OptimizerConfig(algorithm="adam", learning_rate=0.0).rate == 0.0


def test_they_are_described_by_what_differs():
    assert DynamicConfig().describe() == "the defaults"
    text = DynamicConfig(parameters="mlp", optimizer=OptimizerConfig(learning_rate=1.0)).describe()
    assert text == "parameters=mlp, optimizer.learning_rate=1.0"


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (OptimizerConfig, {"algorithm": "lion"}, r"optimizer\.algorithm='lion': expected one of"),
        (OptimizerConfig, {"learning_rate": -1.0}, r"learning_rate=-1\.0: expected a number from"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate=nan: expected"),
        (OptimizerConfig, {"decay": 2.0}, "a share of the distance"),
        (OptimizerConfig, {"sum_of_squares": True}, "no effect with optimizer.algorithm=sgd"),
        (OptimizerConfig, {"algorithm": "sgd", "beta1": 0.5}, "beta1 has no effect"),
        (OptimizerConfig, {"algorithm": "none", "decay": 0.5}, "decay has no effect"),
        (ReplayConfig, {"weight": 2.0}, r"no effect with replay\.rows=0"),
        (ReplayConfig, {"rows": -1}, r"replay\.rows=-1: expected a whole number of at least 0"),
        (DynamicConfig, {"parameters": "heads"}, "parameters='heads': expected one of 'all'"),
        (DynamicConfig, {"segment_length": 0}, "segment_length=0: expected a whole number"),
        (DynamicConfig, {"update_every": 0}, "update_every=0"),
        (DynamicConfig, {"learn_overlap": True}, "no effect with overlap=0"),
        (DynamicConfig, {"lora": LoraConfig(rank=2)}, "no effect with parameters=all"),
        (DynamicConfig, {"templates": "here"}, "templates='here' has no effect with parameters=a"),
        (DynamicConfig, {"parameters": "code"}, "parameters=code without templates: name the"),
        (DynamicConfig, {**CODE, "layers": "1"}, "layers='1' has no effect with parameters=code"),
        (
            DynamicConfig,
            {**CODE, "optimizer": OptimizerConfig(algorithm="rms")},
            "parameters=code has no gradient statistics",
        ),
        (
            DynamicConfig,
            {"optimizer": OptimizerConfig(algorithm="none"), "update_every": 2},
            "nothing is learned",
        ),
    ],
)
def test_what_they_refuse(kind, fields, message):
    with pytest.raises(UserError, match=message):
        kind(**fields)
