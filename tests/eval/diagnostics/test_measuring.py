# SPDX-License-Identifier: Apache-2.0
"""How rows become batches, and where the probe's optimizer comes from; the parts themselves are
tested as `griffin eval diagnostics` runs them."""

import dataclasses
import json

import numpy as np
import pytest

from eval.diagnostics.griffin_probe import ProbeOptimizer
from eval.diagnostics.measuring import check_length, cut, optimizer_of
from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch
from recurrentgemma.presets import tiny


def test_rows_are_cut_into_batches_and_filled_with_padding():
    rows = np.arange(1, 11, dtype=np.int32).reshape(5, 2)
    ones = np.ones((5, 2), np.float32)
    batches = cut(Batch(rows, rows, ones, rows * 0), 2)  # type: ignore[arg-type]
    assert [batch.tokens_BT.shape for batch in batches] == [(2, 2)] * 3
    assert np.asarray(batches[2].positions_BT).tolist() == [[0, 0], [-1, -1]]
    assert np.asarray(batches[2].weights_BT).tolist() == [[1, 1], [0, 0]]
    assert np.asarray(batches[1].tokens_BT).tolist() == [[5, 6], [7, 8]]
    head, *others = cut(Batch(rows, rows, ones, rows * 0), 4, first=3)  # type: ignore[arg-type]
    assert np.asarray(head.tokens_BT).tolist() == rows[:3].tolist()
    assert [batch.tokens_BT.shape for batch in others] == [(4, 2)]
    assert len(cut(Batch(rows, rows, ones, rows * 0), 4, first=6)) == 1  # type: ignore[arg-type]


def test_the_optimizer_is_the_runs_where_there_is_one(tmp_path):
    assert optimizer_of(str(tmp_path), 0.0) == ProbeOptimizer()
    assert optimizer_of("google/recurrentgemma-2b", 0.5).learning_rate == 0.5
    optimizer = {"learning_rate": 3e-3, "eps": 1e-6, "algorithm": "muon"}
    (tmp_path / "config.json").write_text(json.dumps({"train": {"optimizer": optimizer}}))
    assert optimizer_of(str(tmp_path), 0.0) == ProbeOptimizer(learning_rate=3e-3, eps=1e-6)
    assert optimizer_of(str(tmp_path), 0.1).learning_rate == 0.1


def test_a_row_longer_than_global_attention_holds():
    check_length(tiny(), "--sequence-length", 10**6)
    held = dataclasses.replace(tiny(), pattern=("global_attention",), context_length=32)
    check_length(held, "--sequence-length", 32)
    with pytest.raises(UserError, match=r"--probe.length 33: .*context_length=32"):
        check_length(held, "--probe.length", 33)
