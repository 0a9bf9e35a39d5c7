# SPDX-License-Identifier: Apache-2.0
"""Documents evaluated: by any number of streams, interrupted, with what was forgotten."""

import dataclasses

import numpy as np
import pytest

from eval.documents import InMemory
from eval.dynamic import stream
from eval.dynamic.config import OptimizerConfig
from eval.dynamic.learner import Learner, LossNotFinite
from eval.dynamic.retained import Retention
from eval.dynamic.stream import Evaluation, dynamic_evaluation
from eval.results import open_results
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from tests.eval.dynamic.small import PLAIN, RICH, documents, ids_of, language_model, log_probs
from training.data.document import Document
from training.data.held_out import HeldOut

LENGTHS = (50, 3, 33, 20)


@pytest.fixture(scope="module")
def alone():
    return dynamic_evaluation(language_model(), documents(*LENGTHS), PLAIN)


def test_each_document_begins_anew(alone):
    learner = Learner(language_model(), PLAIN)
    for number, document in enumerate(alone.documents):
        logp = log_probs(learner, documents(*LENGTHS).read(number).document.ids)
        assert document.score.nats == pytest.approx(-logp.sum(), rel=1e-5)
        assert document.score.tokens == len(logp)
        assert document.updates == -(-len(logp) // 8)
    assert alone.score.tokens == sum(LENGTHS) - 4 == alone.score.bytes
    assert alone.updates == 7 + 1 + 4 + 3
    assert alone.sums.tokens_UK.sum() == alone.score.tokens
    assert alone.forgotten is None


def test_many_streams_are_each_as_alone(alone):
    """Though they end at different times, and the batch becomes smaller."""
    several = dynamic_evaluation(language_model(), documents(*LENGTHS), PLAIN, streams=3)
    for one, other in zip(alone.documents, several.documents, strict=True):
        assert other.score.nats == pytest.approx(one.score.nats, rel=1e-5)
        assert other.updates == one.updates


def test_what_was_learned_may_stay():
    """Two halves of one text as documents: the second profits from the first."""
    text = np.tile(ids_of(12), 4)
    halves = InMemory(HeldOut("half", Document(text), 1) for _ in range(2))
    forgetful = dynamic_evaluation(language_model(), halves, PLAIN)
    kept = dynamic_evaluation(
        language_model(), halves, dataclasses.replace(PLAIN, reset_parameters=False)
    )
    nats = [[document.score.nats for document in s.documents] for s in (forgetful, kept)]
    assert nats[0][0] == nats[0][1] == nats[1][0]
    assert nats[1][1] < nats[0][1] - 1


def test_what_a_loss_mask_leaves_out_is_neither_scored_nor_learned():
    ids, learned = ids_of(33), np.arange(33) >= 17
    masked = InMemory([HeldOut("a", Document(ids, learned), 16)])
    scores = dynamic_evaluation(language_model(), masked, PLAIN)
    assert scores.score.tokens == 16
    assert scores.updates == 2
    static = language_model().score(ids.tolist())
    scored = -scores.score.nats
    assert scored != pytest.approx(static[16:].sum(), abs=1e-3)
    first = dynamic_evaluation(
        language_model(), InMemory([HeldOut("a", Document(ids[:25], learned[:25]), 8)]), PLAIN
    )
    assert -first.score.nats == pytest.approx(static[16:24].sum(), abs=1e-4)


class Killed(Exception):
    pass


def stop_after(steps: int):
    calls = iter(range(1, steps + 1))

    def progress(tokens: int, mean: float) -> None:
        if next(calls) == steps:
            raise Killed

    return progress


@pytest.mark.parametrize("streams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_interrupted_it_ends_with_the_same_numbers(streams, tmp_path, monkeypatch):
    """All is kept of it, what is replayed and forgotten included."""
    monkeypatch.setattr(stream, "KEPT_EVERY", 0.0)
    monkeypatch.setattr(stream, "KEPT_SHARE", 0.0)
    learner = Learner(language_model(), RICH, count=streams)

    def evaluation() -> Evaluation:
        learner.begin(streams)
        retention = Retention(documents(20), most=12)
        return Evaluation(learner, documents(*LENGTHS), retention=retention)

    whole = evaluation().finish()
    for steps in (2, 7):
        run = evaluation()

        folder = tmp_path / str(steps)
        settings = {"a": 1}
        with (
            pytest.raises(Killed),
            open_results(folder, kind="dynamic", settings=settings) as results,
        ):
            run.finish(results, stop_after(steps))
        with open_results(folder, kind="dynamic", settings=settings) as results:
            resumed = evaluation().finish(results)
            again = evaluation().finish(results)  # it is over, and known to be
        for other in (resumed, again):
            assert other.documents == whole.documents
            np.testing.assert_array_equal(other.sums.nats_UK, whole.sums.nats_UK)


def test_a_loss_that_is_not_finite_is_reported():
    broken = OptimizerConfig(algorithm="sgd", learning_rate=1e30)
    with pytest.raises(LossNotFinite, match="document 0: the loss is not finite from token 9 on"):
        dynamic_evaluation(
            language_model(), documents(50), dataclasses.replace(PLAIN, optimizer=broken)
        )


def test_texts_and_nothing():
    scores = dynamic_evaluation(language_model(), ["ab" * 12, "é"], PLAIN)
    assert [document.score.bytes for document in scores.documents] == [24, 2]
    assert scores.documents[1].score.tokens == 2  # shorter than a segment
    for nothing in ([], [""], documents(1, 0)):
        with pytest.raises(UserError, match="no text to score"):
            dynamic_evaluation(language_model(), nothing, PLAIN)
    with pytest.raises(UserError, match="one text of 2 characters"):
        dynamic_evaluation(language_model(), "ab", PLAIN)
    with pytest.raises(UserError, match="came without a tokenizer"):
        dynamic_evaluation(LanguageModel(language_model().model), ["a"], PLAIN)
