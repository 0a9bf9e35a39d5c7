# SPDX-License-Identifier: Apache-2.0
"""Loss past the training length: of the same pieces, with intervals over documents."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from eval.extrapolation import (
    Extrapolation,
    Unit,
    edges_of,
    extrapolation,
    family,
    labels,
    summary,
)
from eval.perplexity import Scores
from eval.positions import Sums
from recurrentgemma.presets import GRIFFIN, HAWK, MQA, tiny

EDGES = edges_of(256)


def model_of(
    losses_K: list[float], *, label: str, trained_at: int | None, unit: Unit = "documents"
):
    """Twelve documents of three pieces each, which differ by up to 1 nat."""
    random = np.random.default_rng(0)
    numbers_U = np.repeat(np.arange(12), 3)
    ends = [*EDGES[1:], 257]
    tokens_UK = np.tile(np.diff([*EDGES, ends[-1]]), (36, 1))
    levels_U1 = random.uniform(-0.5, 0.5, 12)[numbers_U][:, None]
    nats_UK = (np.array(losses_K) + levels_U1) * tokens_UK
    sums = Sums(numbers_U, np.tile(np.arange(3), 12), nats_UK, tokens_UK)
    return Extrapolation(label, label, trained_at, 1000, EDGES, sums, unit)


GRIFFIN_AT_64 = model_of([3.0, 2.5, 2.4, 2.3], label="Griffin", trained_at=64)
MQA_AT_64 = model_of([3.0, 2.5, 2.9, 4.0], label="MQA", trained_at=64)


def test_edges_end_at_the_length():
    assert EDGES == (1, 32, 64, 128)  # the last bucket is 128 to 256
    assert edges_of(256, parts=2) == (1, 32, 45, 64, 91, 128, 181)
    assert edges_of(8) == (1,)


def test_families_are_told_by_their_blocks():
    patterns = (GRIFFIN, HAWK, MQA, ("local_attention",))
    configs = [dataclasses.replace(tiny(), pattern=pattern) for pattern in patterns]
    assert [family(c) for c in configs] == ["Griffin", "Hawk", "MQA", "local attention"]


def test_labels_tell_models_apart():
    paths = ["runs/a", "runs/b", "runs/c"]
    assert labels(paths, ["Griffin", "Hawk", "Hawk"], [256, None, 1024]) == [
        *("Griffin, trained at 256", "Hawk", "Hawk, trained at 1,024"),
    ]
    assert labels(paths[:2], ["MQA", "MQA"], [256, 256]) == [
        *("MQA, trained at 256 (a)", "MQA, trained at 256 (b)"),
    ]


def test_what_comes_after_the_training_length_is_compared_with_it():
    assert GRIFFIN_AT_64.trained_bucket() == 1  # positions 32 to 63
    better, worse = GRIFFIN_AT_64.beyond(), MQA_AT_64.beyond()
    assert better is not None
    assert worse is not None
    assert (better.mean, better.high) == pytest.approx((-0.2, -0.2))  # the same documents
    assert (worse.mean, worse.low) == pytest.approx((1.5, 1.5))
    assert model_of([3, 2, 2, 2], label="x", trained_at=None).beyond() is None
    assert model_of([3, 2, 2, 2], label="x", trained_at=4096).beyond() is None


def test_intervals_are_over_documents_unless_asked_otherwise():
    wide = GRIFFIN_AT_64.by_position()[0]
    pieces = model_of([3.0, 2.5, 2.4, 2.3], label="Griffin", trained_at=64, unit="pieces")
    narrow = pieces.by_position()[0]
    assert (wide.count, narrow.count) == (12, 36)
    assert narrow.high - narrow.low < 0.8 * (wide.high - wide.low)


def test_the_mean_of_the_first_tokens():
    lengths = [interval.mean for interval in GRIFFIN_AT_64.by_length()]
    assert lengths[0] == GRIFFIN_AT_64.by_position()[0].mean
    level = lengths[0] - 3.0
    nats = 31 * 3.0 + 32 * 2.5 + 64 * 2.4 + 129 * 2.3
    assert lengths[-1] == pytest.approx(nats / 256 + level)


def test_the_summary_is_json_and_its_plots_are_drawn(tmp_path: Path):
    parts = summary([GRIFFIN_AT_64, MQA_AT_64])
    result = json.loads(json.dumps(parts["result"], allow_nan=False))
    assert (result["length"], result["documents"], result["pieces"]) == (256, 12, 36)
    assert result["intervals"] == "95% intervals, bootstrap over 12 documents"
    griffin, mqa = result["models"]
    assert [b["name"] for b in griffin["by_position"]][-1] == "128 to 256"
    assert griffin["beyond_training"]["loss"] == pytest.approx(-0.2)
    assert mqa["beyond_training"]["loss"] == pytest.approx(1.5)
    conclusions, positions, lengths = parts["tables"]
    assert conclusions.rows[0][4] == "128 to 256"
    assert conclusions.rows[1][4] == "32 to 63"
    assert [row[0] for row in lengths.rows] == ["31", "63", "127", "256"]
    assert len(positions.rows) == 4
    for name, draw in parts["plots"].items():
        draw(tmp_path / name)
        drawn = (tmp_path / name).read_text("utf-8")
        assert "trained at 64" in drawn
        assert "leaves the plot: MQA" in drawn


def test_one_document_has_no_interval():
    sums = Sums(*(x[:1] for x in GRIFFIN_AT_64.sums))
    model = dataclasses.replace(GRIFFIN_AT_64, sums=sums)
    assert math.isnan(model.by_position()[0].low)
    assert json.dumps(summary([model])["result"], allow_nan=False)


def test_scores_keep_their_sums():
    scores = Scores(("text:a",), (), EDGES, MQA_AT_64.sums)
    config = dataclasses.replace(tiny(), pattern=MQA)
    made_of = extrapolation(
        scores, config, label="MQA", trained_at=64, parameters=1000, unit="documents"
    )
    assert made_of == MQA_AT_64
