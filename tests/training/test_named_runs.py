# SPDX-License-Identifier: Apache-2.0
"""Named runs."""

import dataclasses
import json

import pytest

from recurrentgemma.counts import parameter_count
from recurrentgemma.presets import PRESETS
from training.data.sources.npm_texts import alternatives
from training.named_runs import LEARNED, NOT_LEARNED, RUNS, STUDIES, run_named
from training.pretraining import SETTINGS, model_to_pretrain


@pytest.mark.parametrize("name", [*RUNS, *PRESETS])
def test_every_name_is_a_run(name):
    config = run_named(name)
    json.dumps(config.to_json())
    if name in SETTINGS:
        assert config.model == model_to_pretrain(name)
    elif name in PRESETS:
        assert config.model == dataclasses.replace(PRESETS[name](), remat="auto")


def test_an_unknown_name_is_refused_with_the_right_ones():
    with pytest.raises(ValueError, match=r"unknown preset 'tiny_byte' \(did you mean 'tiny_bytes'"):
        run_named("tiny_byte")


def test_the_studied_models_differ_in_blocks_and_length_alone():
    runs = [run_named(name) for name in STUDIES]
    sizes = [parameter_count(run.model) for run in runs]
    assert max(sizes) < 1.01 * min(sizes)
    assert {run.batch_size * run.sequence_length for run in runs} == {2048}
    same = {"model": runs[0].model, "batch_size": 1, "sequence_length": 1}
    assert len({dataclasses.replace(run, **same) for run in runs}) == 1
    assert {run.model.pattern for run in runs} == {run.model.pattern for run in runs[:3]}


def test_what_is_held_out_of_the_studies_is_not_learned():
    (learned,), (held_out,) = (
        [set(alternatives(spec)) for spec in specs]
        for specs in (
            run_named("study_griffin_256").data.sources,
            run_named("study_griffin_256").data.eval_sources,
        )
    )
    assert len(learned) == len(LEARNED.split(",")) == 10
    assert len(held_out) == len(NOT_LEARNED.split(",")) == 4
    assert not learned & held_out
