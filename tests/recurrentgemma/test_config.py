# SPDX-License-Identifier: Apache-2.0
"""Configurations: JSON, and what is refused."""

import dataclasses
import json

import pytest

from recurrentgemma.config import GriffinConfig
from recurrentgemma.presets import PRESETS
from tests.recurrentgemma.models import GRIFFIN


def test_json_there_and_back():
    for function in PRESETS.values():
        text = json.dumps(function().to_json())
        assert GriffinConfig.from_json(json.loads(text)) == function()


def test_refused_configurations():
    with pytest.raises(ValueError, match=r"unknown GriffinConfig field 'widht' \(did you mean 'wi"):
        GriffinConfig.from_json({**GRIFFIN.to_json(), "widht": 3})
    with pytest.raises(ValueError, match="lacks the fields: width"):
        GriffinConfig.from_json({k: v for k, v in GRIFFIN.to_json().items() if k != "width"})
    for change, message in (
        ({"width": 0}, "width=0: expected a whole number of at least 1"),
        ({"num_gate_blocks": 5}, "num_gate_blocks=5 does not divide lru_width=48"),
        ({"pattern": ()}, "at least one block type"),
        ({"pattern": "recurrent"}, "pattern='recurrent': expected a tuple of block types"),
        ({"logits_soft_cap": "x"}, "logits_soft_cap='x': expected a positive number"),
        ({"logits_soft_cap": float("inf")}, "logits_soft_cap=inf: expected a positive number"),
        ({"pattern": ("mamba",)}, "pattern='mamba': expected one of 'recurrent'"),
        ({"dtype": "float16"}, "dtype='float16': expected one of 'float32', 'bfloat16'"),
        ({"remat": "all"}, "remat='all': expected one of"),
        ({"head_dim": 18}, "head_dim=18: expected a multiple of 4"),
        ({"logits_soft_cap": 0.0}, "logits_soft_cap=0.0: expected a positive number, or None"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(GRIFFIN, **change)
