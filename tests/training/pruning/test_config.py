# SPDX-License-Identifier: Apache-2.0
"""What PruneConfig refuses, and how it comes from the command line and from old runs."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from training.configs import TrainConfig
from training.pruning.config import PruneConfig
from training.train_cli import parse


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penalty": -1.0}, r"prune\.penalty=-1\.0: expected a value between 0 and"),
        ({"penalty": 0.1, "span": 0.0}, r"prune\.span=0\.0: expected a value between"),
        ({"penalty": 0.1, "schedule": "cosine"}, "expected one of one_cycle, constant, warm_up"),
        ({"noise": 5e-5}, r"prune\.noise=5e-05 has no effect without a penalty"),
        ({"schedule": "constant"}, "has no effect without a penalty"),
        ({"penalty": 0.1, "schedule": "constant", "span": 0.5}, "no effect on a constant penalty"),
    ],
)
def test_what_has_no_effect_is_refused(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        PruneConfig(**fields)


def test_it_is_on_the_command_line_and_off_by_default(small: TrainConfig):
    config = parse(["--prune.penalty", "0.2", "--prune.noise", "5e-5"]).config
    assert config.prune == PruneConfig(penalty=0.2, noise=5e-5)
    assert TrainConfig.from_json(config.model, config.to_json()) == config
    saved = small.to_json()
    del saved["prune"]  # of a run before there was the option
    assert TrainConfig.from_json(small.model, saved).prune.penalty == 0


def test_adapters_leave_no_weight_to_draw_to_zero(small: TrainConfig):
    with pytest.raises(UserError, match=r"prune\.penalty=0\.2 has no effect with lora"):
        dataclasses.replace(
            small, init_from="run", lora=LoraConfig(), prune=PruneConfig(penalty=0.2)
        )
