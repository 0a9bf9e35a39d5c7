# SPDX-License-Identifier: Apache-2.0
"""FLOPs by arithmetic against the compiled program's, for every choice of parameters."""

import dataclasses
import functools

import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig, ReplayConfig, RetainConfig
from eval.dynamic.flops import adapted_parameters, flops_per_token
from eval.dynamic.learner import Learner
from eval.dynamic.segments import cut, replayed, stacked
from recurrentgemma import counts
from recurrentgemma.config import GriffinConfig
from recurrentgemma.presets import preset
from tests.eval.dynamic.small import CONFIG, ids_of, language_model, write_templates
from training.planning import hlo, products

LENGTH = 128
WIDE = dataclasses.replace(CONFIG, width=64, mlp_width=192, lru_width=64, pattern=("recurrent",))
STATIC = DynamicConfig(segment_length=LENGTH).static()


def choices(**changes) -> DynamicConfig:
    return DynamicConfig(
        segment_length=LENGTH, optimizer=OptimizerConfig(algorithm="sgd"), **changes
    )


@functools.cache
def compiled(config: GriffinConfig, chosen: DynamicConfig) -> float:
    """FLOPs of all matrix products of a step, for each scored token."""
    learner = Learner(language_model(config), chosen)
    ids = ids_of(LENGTH + chosen.overlap + 1)
    segment = stacked([cut(chosen, ids, chosen.overlap, LENGTH)])
    beside = None
    if chosen.replay.rows:
        beside = stacked([replayed(chosen, [ids[: LENGTH + 1]] * chosen.replay.rows)])
    given = (learner.streams, learner.split.frozen, learner.anchor, segment, beside)
    text = learner._step.lower(*given).compile().as_text()
    assert text is not None
    return products.flops(hlo.parse(text))[0] / LENGTH


@pytest.mark.parametrize(
    "chosen",
    [
        STATIC,
        choices(parameters="mlp", layers="1"),
        choices(parameters="lora", overlap=64),
        choices(
            overlap=64,
            learn_overlap=True,
            replay=ReplayConfig(rows=1, targets="checkpoint"),
            retain=RetainConfig(method="kl"),
        ),
    ],
    ids=lambda chosen: chosen.describe(),
)
def test_they_are_those_of_the_compiled_program(chosen):
    """But for what is no product: the recurrence, the convolution and the update."""
    flops = flops_per_token(WIDE, chosen)
    read = chosen.tokens_read / LENGTH + chosen.replay.rows
    read *= 1 + (chosen.retain.method == "kl") / 3  # the checkpoint's forward pass
    others = 2 * WIDE.lru_width * (2 * 4 + 16) * read  # of two layers
    most = flops.per_token - flops.optimizer - others
    least = flops.per_token - flops.optimizer - 3 * others
    assert 0.97 * least < compiled(WIDE, chosen) < 1.03 * most


def test_those_of_a_code(tmp_path):
    chosen = choices(parameters="code", templates=write_templates(tmp_path / "templates", WIDE))
    flops = flops_per_token(WIDE, chosen)
    others = 2 * WIDE.lru_width * (2 * 4 + 16)
    most = flops.per_token - flops.optimizer - others
    assert 0.97 * (most - 2 * others) < compiled(WIDE, chosen) < 1.03 * most
    learner = Learner(language_model(WIDE), chosen)
    assert adapted_parameters(WIDE, chosen) == 9 == learner.split.pretrained["hyper_code"].size


def test_static_scoring_is_a_forward_pass():
    for name in ("recurrentgemma_2b", "griffin_1b", "mqa_1b"):
        config = preset(name)
        flops = flops_per_token(config, STATIC)
        assert flops.forward == flops.per_token
        assert flops.per_token == pytest.approx(counts.flops_per_token(config)["forward"], rel=1e-3)


def test_what_costs_more_and_what_less():
    config = preset("recurrentgemma_2b")
    cost = {
        name: flops_per_token(config, choices(**changes)).per_token
        for name, changes in {
            "all": {},
            "mlp": {"parameters": "mlp"},
            "lora": {"parameters": "lora"},
            "recurrence": {"parameters": "recurrence"},
            "late": {"parameters": "mlp", "layers": "24-25"},
            "overlap": {"overlap": LENGTH},
            "rare": {"update_every": 8},
        }.items()
    }
    static = flops_per_token(config, STATIC).per_token
    assert cost["all"] == pytest.approx(3 * static, rel=0.05)
    assert static < cost["late"] < cost["recurrence"] < cost["lora"] < cost["mlp"]
    assert cost["mlp"] < cost["all"] < cost["overlap"]
    assert cost["rare"] < cost["all"]


def test_adapted_parameters_are_counted():
    for chosen in (choices(), choices(parameters="lora"), STATIC):
        learner = Learner(language_model(), chosen)
        size = sum(x.size for x in learner.split.pretrained.values())
        assert adapted_parameters(CONFIG, chosen) == size
