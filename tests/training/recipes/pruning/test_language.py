# SPDX-License-Identifier: Apache-2.0
"""A small Griffin pruned in every way: sizes, scores, and which arms share their first stage."""

import dataclasses

import numpy as np
import pytest

from training.configs import TrainConfig
from training.data.document import Document
from training.recipes.experiment import Cell
from training.recipes.pruning import language
from training.recipes.pruning.language import Pruned


@pytest.fixture(autouse=True)
def short_plays(song, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.frombuffer(song.read_bytes(), np.uint8).astype(np.int32)
    texts = language.Texts([Document(ids[:2000])], [Document(ids[2000:2600])])
    monkeypatch.setattr(language, "texts", lambda: texts)


def test_every_way_ends_at_its_size(small: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    learned, learn = [], language.learn

    def counted(choices, first, seed):
        learned.append(choices.way)
        return learn(choices, first, seed)

    monkeypatch.setattr(language, "learn", counted)
    start = Pruned(
        way="dense",
        model=small.model,
        multiple=8,
        steps=30,
        further_steps=5,
        learning_rate=1e-2,
        batch_size=2,
        sequence_length=32,
        text_bytes=300,
        scored_bytes=500,
    )
    ways = ("dense", "small", "variation", "random", "group lasso")
    cells = [Cell(way, dataclasses.replace(start, way=way), 0) for way in ways]
    cells[-1] = cells[-1]._replace(choices=dataclasses.replace(cells[-1].choices, penalty=2.5))
    numbers = {cell.arm: one for cell, one in language.measure(cells)}
    assert learned == ["dense", "small", "group lasso"]
    assert [numbers[way]["mlp_width"] for way in ways] == [64, 32, 32, 32, 32]
    assert numbers["variation"]["parameters"] == numbers["small"]["parameters"]
    assert numbers["variation"]["bits_before"] == numbers["dense"]["bits_before"]
    assert numbers["variation"]["bits_pruned"] < numbers["random"]["bits_pruned"]
    lasso = numbers["group lasso"]
    assert lasso["zero_units"] > 0.4
    assert abs(lasso["bits_pruned"] - lasso["bits_before"]) < 0.1
    for one in numbers.values():
        assert 0 < one["bits_after"] < 8
        assert one["tokens_per_second"] > 0
