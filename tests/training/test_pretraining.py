# SPDX-License-Identifier: Apache-2.0
"""The settings of the model presets: where they are from, and how a run takes them."""

import dataclasses
import math
from pathlib import Path

import pytest

from checkpoints.huggingface_json import huggingface_problems
from recurrentgemma.counts import parameter_count
from recurrentgemma.presets import PRESETS
from training.named_runs import run_named
from training.pretraining import SETTINGS, SOURCES, rounded_vocabulary, rule, tables

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_every_model_but_the_tiny_one_has_settings():
    assert set(SETTINGS) == set(PRESETS) - {"tiny"}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_numbers_are_those_of_their_sources(name):
    model, settings = PRESETS[name](), SETTINGS[name]
    rate, tokens = rule(model, settings)
    assert settings.learning_rate == pytest.approx(rate, rel=0.03)
    rows = tokens / settings.sequence_length
    assert settings.batch_size == 2 ** round(math.log2(rows))
    if name.startswith("recurrentgemma"):
        assert (settings.tokens, settings.sequence_length) == (2 * 10**12, 8192)
    else:
        others = parameter_count(model) - model.vocab_size * model.width
        assert 18 < settings.tokens / others < 28
        assert settings.sequence_length == 2048


def test_the_rule_gives_what_its_authors_trained_with():
    """DeepSeek LLM 7B: 30 layers of 4,096, 2T tokens of rows of 4,096: 4.2e-4, 2,304 rows."""
    c = (72 * 30 * 4096**2 + 12 * 30 * 4096 * 4096) * 2e12
    assert pytest.approx(4.2e-4, rel=0.02) == 0.3118 * c**-0.125
    assert pytest.approx(2304, rel=0.03) == 0.2920 * c**0.3271 / 4096


def test_a_run_takes_them():
    config = run_named("griffin_1b")
    model, optimizer = config.model, config.optimizer
    assert (model.dtype, model.scan_layers, model.remat) == ("bfloat16", True, "auto")
    assert (config.batch_size, config.sequence_length, config.steps) == (512, 2048, 23842)
    assert (optimizer.schedule, optimizer.learning_rate) == ("wsd", 9.1e-4)
    assert (optimizer.warmup_steps, run_named("recurrentgemma_9b").optimizer.warmup_steps) == (
        *(1192, 2000),
    )


def test_the_tokens_stay_where_the_batch_is_another():
    config = run_named("griffin_100m", batch_size=8, sequence_length=512)
    assert config.steps * 8 * 512 == pytest.approx(1_900_000_000, rel=1e-4)
    assert config.optimizer.warmup_steps == 2000
    short = run_named("griffin_100m", steps=40)
    assert (short.steps, short.optimizer.warmup_steps, short.batch_size) == (40, 2, 128)


def test_embeddings_divide_over_the_mesh():
    assert [rounded_vocabulary(n) for n in (1, 128, 50_257)] == [128, 128, 50_304]
    assert rounded_vocabulary(50_257, tensor=8) == 51_200
    assert rounded_vocabulary(261, tensor=3) == 384


def test_what_makes_a_preset_fit_for_transformers():
    """The documented options do, and the other presets cannot be."""
    both = {"scale_embeddings": True, "logits_soft_cap": 30.0}
    blocks = {"griffin_200m": 8, "griffin_7b": 32}
    never = {"griffin_100m", "griffin_400m", "griffin_3b", "griffin_14b"}
    for name, preset in PRESETS.items():
        model = dataclasses.replace(preset(), **both)
        if name in blocks:
            model = dataclasses.replace(model, num_gate_blocks=blocks[name])
        fits = name not in never and not name.startswith("mqa")
        assert fits == (not huggingface_problems(model)), name
        if name in never:
            assert model.lru_width % model.num_heads
        if fits and not name.startswith(("recurrentgemma", "tiny")):
            assert huggingface_problems(preset())


def test_the_documented_tables_are_these():
    assert tables() in DOCS.read_text("utf-8"), "put what python -m training.pretraining prints"
    assert all(source for source in SOURCES.values())
