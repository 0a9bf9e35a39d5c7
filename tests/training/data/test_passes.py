# SPDX-License-Identifier: Apache-2.0
"""So many epochs are so many times each document, however long the documents are."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.training.data.small_documents import OnTheFly, documents_of
from training.data.batches import Batches
from training.data.config import DataConfig, open_mixture
from training.data.documents import InMemory, Mixture
from training.data.passes import Deal


def taught(batches: Batches, targets: int) -> np.ndarray:
    """How often each target has been learned when the batches are over."""
    counts = np.zeros(targets, np.int64)
    for batch in batches:
        learned = np.asarray(batch.targets_BT)[np.asarray(batch.weights_BT) > 0]
        counts += np.bincount(learned, minlength=targets)
    return counts


def test_each_of_2000_examples_is_learned_as_often_as_epochs_say(tmp_path: Path):
    """Of log-normal length: most are short, some go over many rows."""
    random = np.random.default_rng(0)
    letters = np.exp(random.normal(3.5, 1.3, 2000)).astype(int) + 1
    assert letters.max() > 6 * 256
    lines = [{"prompt": f"{n}?", "response": "a" * letters[n]} for n in range(2000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig(sources=(f"chat:{tmp_path}/a.jsonl",), epochs=3, long_documents="carry")
    mixture = open_mixture(data, ByteTokenizer(), vocab_size=261)
    shape: dict[str, Any] = {"batch_size": 8, "row_length": 256, "seed": 0}
    batches = Batches(mixture, **shape, epochs=data.epochs, long_documents=data.long_documents)
    weights, positions, tokens = [], [], []
    for batch in batches:
        weights.append(batch.weights_BT)
        positions.append(batch.positions_BT)
        tokens.append(batch.tokens_BT)
    weights, positions, tokens = (
        np.concatenate(field, 1) for field in (weights, positions, tokens)
    )
    learned: dict[str, list[int]] = {}
    for row in range(8):
        starts = [*np.flatnonzero(positions[row] == 0), positions.shape[1]]
        for start, stop in pairwise(starts):
            ids = tokens[row, start:stop][positions[row, start:stop] >= 0]
            name = ByteTokenizer().decode(ids.tolist()).split("?")[0].split("\n")[-1]
            learned.setdefault(name, []).append(int(weights[row, start:stop].sum()))
    assert learned == {str(n): [letters[n] + 1] * 3 for n in range(2000)}  # whole, and three times
    assert batches.padding_fraction < 0.05  # at most the longest example a row


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(lambda n: max(n) > 1),
    st.sampled_from([0.3, 1.0, 2.0, 3.5]),
    st.integers(1, 5),
    st.integers(1, 17),
    st.sampled_from(["cut", "carry"]),
)
def test_every_target_of_every_source_comes_as_often(
    lengths, epochs, batch_size, row_length, long_documents
):
    documents = documents_of([*lengths, 7])
    parts = OnTheFly(documents[:-1]), InMemory(documents[-1:])
    batches = Batches(
        Mixture(parts, (1.0, 1.0)),
        batch_size=batch_size,
        row_length=row_length,
        seed=2,
        epochs=epochs,
        long_documents=long_documents,
    )
    assert batches.epoch == 0
    counts = taught(batches, sum(lengths) + 7)
    assert batches.epochs == (epochs, epochs)
    times = [set(counts[ids[1:]].tolist()) for ids in documents if len(ids) > 1]
    assert all(len(often_learned) == 1 for often_learned in times)  # a document is learned whole
    often = [often_learned.pop() for often_learned in times]
    assert {int(epochs), -int(-epochs // 1)} >= set(often)
    assert sum(often) == max(round(epochs * len(often)), 1)


def test_a_row_goes_on_in_the_next_batch_or_begins_again():
    shape: dict[str, Any] = {"batch_size": 1, "row_length": 4, "seed": 0, "epochs": 1}
    positions = []
    for long_documents in ("carry", "cut"):
        batches = Batches(documents_of([11]), **shape, long_documents=long_documents)
        positions.append(np.concatenate([batch.positions_BT for batch in batches], 1))
    carried, cut = positions
    assert carried.tolist() == [[*range(10), -1, -1]]
    assert cut.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, -1, -1]]


def test_steps_that_are_not_the_batches_are_refused():
    batches = Batches(documents_of([9, 20]), batch_size=2, row_length=8, seed=0, epochs=2)
    assert batches.count == 5
    batches.check_steps(5)
    with pytest.raises(ValueError, match=r"steps=6, but data.epochs=2 is 5 batches .* 5 steps"):
        batches.check_steps(6)
    endless = Batches(documents_of([9, 20]), batch_size=2, row_length=8, seed=0)
    assert endless.count is None
    endless.check_steps(5)
    with pytest.raises(ValueError, match=r"epochs: 2 -> None"):
        endless.restore(batches.state())


def test_a_document_that_has_changed_is_told():
    part = OnTheFly(documents_of([9, 20]))
    batches = Batches(Mixture((part,), (1.0,)), batch_size=2, row_length=8, seed=0, epochs=2)
    part._documents = OnTheFly(documents_of([8, 20]))._documents
    with pytest.raises(ValueError, match="document 0 of source number 1 has changed since"):
        list(batches)


def test_documents_without_a_target_are_refused():
    with pytest.raises(ValueError, match="nothing to predict"):
        Batches(documents_of([1, 0]), batch_size=1, row_length=4, seed=0, epochs=1)


def test_counters_go_beyond_32_bits():
    """Documents of a billion ids: 2^35 pairs, never read."""
    lengths = np.array([2**31 - 1, 2**31 - 1, 2, 5] * 4, np.uint32)
    deal = Deal(lengths, epochs=2, batch_size=3, row_length=2**10, seed=0)
    pairs = 2 * 4 * (2 * (2**31 - 2) + 5)
    assert deal.pairs.sum() == pairs > 2**35 - 2**10
    assert deal.batches > pairs / 3 / 2**10
    for row in range(3):
        last = (int(deal.pairs[row]) - 1) // 2**10
        [*_, (document, _, stop)] = deal.pieces(row, last)
        assert stop == lengths[document] - 1
        assert deal.pieces(row, last + 1) == []
        assert all(0 <= a < b for _, a, b in deal.pieces(row, last // 2))
