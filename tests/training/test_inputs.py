# SPDX-License-Identifier: Apache-2.0
"""What a run reads: from files of text, whose tails are held out, and from sources."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.config import DataConfig
from training.inputs import Feed, open_inputs


def test_text_is_learned_from_but_for_its_tail(small: TrainConfig, song: Path, tmp_path: Path):
    inputs = open_inputs(small, tmp_path)
    [tail] = inputs.held_out()
    [part] = inputs.mixture.parts
    learned, text = inputs.tokenizer.decode(part.read(0).ids.tolist()), song.read_text()
    assert learned + inputs.tokenizer.decode(tail.document.ids.tolist()) == text
    assert tail.bytes == len(text) - len(learned) == pytest.approx(len(text) / 10, rel=0.1)
    [start] = inputs.held_out_starts
    assert start.document.ids.tolist() == tail.document.ids[: small.eval_tokens].tolist()
    assert start.bytes == small.eval_tokens - 1  # BOS has no bytes
    assert inputs.describe() == (
        f"1 documents, {len(learned) + 1:,} tokens, "
        f"{len(learned) / (len(learned) + 1):.2f} bytes a token; 1 held out"
    )


def test_sources_and_what_is_held_out_of_them(small: TrainConfig, song: Path, tmp_path: Path):
    """The two parts of a text as sources are what `--text` is."""
    head, tail = (f"text:{song}?part={part}" for part in ("head", "tail"))
    data = DataConfig(sources=(head,), eval_sources=(tail,))
    by_source = open_inputs(dataclasses.replace(small, text=(), data=data), tmp_path)
    by_text = open_inputs(small, tmp_path)
    for one, other in zip(by_source.held_out(), by_text.held_out(), strict=True):
        assert one.document.ids.tolist() == other.document.ids.tolist()
        assert one.bytes == other.bytes
    [one], [other] = by_source.mixture.parts, by_text.mixture.parts
    assert one.read(0).ids.tolist() == other.read(0).ids.tolist()
    unscored = open_inputs(
        dataclasses.replace(small, text=(), data=DataConfig(sources=(head,))), tmp_path
    )
    assert not unscored.is_scored
    assert "; nothing held out" in unscored.describe()
    few_and_long = "; few and long: --data.in-memory mixes their rows"
    assert unscored.describe().endswith(few_and_long)
    data = DataConfig(sources=(head,), in_memory=True)
    in_memory = open_inputs(dataclasses.replace(small, text=(), data=data), tmp_path)
    assert in_memory.describe().endswith("a token; nothing held out")
    [mixed] = in_memory.mixture.parts
    assert mixed.lengths is not None
    assert mixed.read(0).ids.tolist() == one.read(0).ids.tolist()


def test_held_out_documents_without_text_are_refused(
    small: TrainConfig, song: Path, tmp_path: Path
):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ""}) + "\n")
    data = DataConfig(sources=(f"text:{song}",), eval_sources=(f"jsonl:{tmp_path}/a.jsonl",))
    with pytest.raises(ValueError, match="no text to score in the first 100 tokens of the first"):
        open_inputs(dataclasses.replace(small, text=(), data=data), tmp_path)


def test_without_a_mesh_a_feed_is_its_batches():
    def batches() -> Batches:
        return Batches([np.arange(9)], batch_size=2, row_length=4, seed=0)

    fed = next(Feed(batches(), None, batch_size=2, rows=range(2)))
    for one, other in zip(fed, next(batches()), strict=True):
        np.testing.assert_array_equal(one, other)
