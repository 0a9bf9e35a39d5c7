# SPDX-License-Identifier: Apache-2.0
"""The study's cells: pieces of a domain, kept once measured, and the search for a learning rate."""

import json

import numpy as np
import pytest

from eval.documents import InMemory
from eval.dynamic import study_cells
from eval.dynamic.retained import Retention
from eval.dynamic.stream import dynamic_evaluation
from eval.dynamic.study_cells import FACTOR, DynamicCells, Subject, cut_domain, with_rate
from recurrentgemma.errors import UserError
from tests.eval.dynamic.small import PLAIN, documents, ids_of, language_model
from training.data.document import Document
from training.data.held_out import HeldOut

TEXT = InMemory(HeldOut(f"{n}", Document(ids_of(60, n)), 60) for n in range(2))


@pytest.fixture(scope="module")
def subject() -> Subject:
    retention = Retention(documents(20), most=12)
    return Subject("small", language_model(), documents(30), retention, segments=2)


def test_pieces_are_apart_and_begin_with_bos():
    domain = cut_domain("d", TEXT, language_model(), count=3, tokens=20, tuning=9)
    tokenizer = language_model().tokenizer
    assert tokenizer is not None
    whole = np.concatenate([TEXT.read(0).document.ids, TEXT.read(1).document.ids])
    for number in range(3):
        name, document, text_bytes = domain.pieces.read(number)
        assert (name, len(document.ids), text_bytes) == (f"d {number}", 21, 20)
        np.testing.assert_array_equal(document.ids[1:], whole[40 * number :][:20])
        tuning = domain.tuning.read(number).document.ids
        np.testing.assert_array_equal(tuning[1:], whole[40 * number + 31 :][:9])
        assert document.ids[0] == tuning[0] == tokenizer.bos_id
    with pytest.raises(UserError, match="d: 120 tokens are too few for 3 pieces of 30"):
        cut_domain("d", TEXT, language_model(), count=3, tokens=30, tuning=11)


def test_a_cell_is_measured_once(subject, tmp_path, monkeypatch):
    domain = cut_domain("d", TEXT, language_model(), count=3, tokens=20, tuning=9)
    cells = DynamicCells(tmp_path)
    cell = cells.measure(subject, domain, PLAIN)
    expected = dynamic_evaluation(language_model(), domain.pieces, PLAIN, streams=3)
    assert cell["bits_per_byte"] == pytest.approx(expected.score.bits_per_byte, rel=1e-6)
    assert len(cell["pieces"]) == 3
    assert cell["forgotten"] is not None
    monkeypatch.setattr(study_cells, "Learner", None)  # nothing is measured any more
    assert DynamicCells(tmp_path).measure(subject, domain, PLAIN) == cell
    assert cells.all() == [cell]
    assert json.loads(next(tmp_path.glob("small.d.*.json")).read_text()) == cell


def test_the_rate_is_searched_and_a_loss_that_is_not_finite_is_the_worst(subject, tmp_path):
    domain = cut_domain("d", TEXT, language_model(), count=3, tokens=20, tuning=19)
    cells = DynamicCells(tmp_path)
    best = cells.rate(subject, [domain], with_rate(PLAIN, 3.0))
    tried = {
        cell["choices"]["optimizer"]["learning_rate"]: cell["bits_per_byte"] for cell in cells.all()
    }
    assert len(tried) >= 3
    assert tried[best.optimizer.learning_rate] == min(tried.values())
    rates = sorted(tried)
    np.testing.assert_allclose(np.diff(np.log10(rates)), np.log10(FACTOR), atol=0.01)
    broken = cells.measure(subject, domain, with_rate(PLAIN, 1e30))
    assert "not finite" in broken["stopped"]
    assert broken["bits_per_byte"] > max(tried.values())
