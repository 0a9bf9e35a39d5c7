# SPDX-License-Identifier: Apache-2.0
"""OnlineAdapter: the function's numbers, whatever the pieces; saved, it goes on the same."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from checkpoints import hyper_adapters
from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.learner import LossNotFinite
from eval.dynamic.stream import dynamic_evaluation
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from tests.eval.dynamic.small import MQA, PLAIN, RICH, ids_of, language_model, write_templates

TEXT = "to be, or not to be, that is the question: whether " * 8


def pieces(text: str) -> list[str]:
    cuts = [0, 1, 2, 30, 31, 290, 291, 330, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize(
    "choices", [pytest.param(PLAIN, marks=pytest.mark.slow), RICH], ids=["plain", "rich"]
)
def test_it_is_the_function_whatever_the_pieces(choices):
    whole = dynamic_evaluation(language_model(), [TEXT], choices)
    adapter = OnlineAdapter(language_model(), choices)
    scores = [adapter.feed(piece) for piece in pieces(TEXT)]
    assert len(scores[0]) == 0
    assert all(len(logp) % 8 == 0 for logp in scores)
    logp = np.concatenate([*scores, adapter.flush()])
    assert len(logp) == len(TEXT) == adapter.tokens_scored
    assert -logp.sum(dtype=np.float64) == pytest.approx(whole.score.nats, rel=1e-6)
    assert adapter.version == whole.updates
    by_ids = OnlineAdapter(language_model(), choices)
    tokenizer = language_model().tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(TEXT)
    same = [by_ids.feed(ids[:13]), by_ids.feed(ids[13:]), by_ids.feed([]), by_ids.flush()]
    np.testing.assert_array_equal(np.concatenate(same), logp)


def test_saved_it_goes_on_as_it_would_have(tmp_path):
    adapter = OnlineAdapter(language_model(), RICH)
    for piece in pieces(TEXT)[:5]:
        adapter.feed(piece)
    adapter.save(tmp_path / "a")
    other = OnlineAdapter.load(tmp_path / "a", language_model())
    assert other.choices == RICH
    assert other.version == adapter.version > 0
    for piece in pieces(TEXT)[5:]:
        np.testing.assert_array_equal(adapter.feed(piece), other.feed(piece))
    np.testing.assert_array_equal(adapter.flush(), other.flush())
    for one in (adapter, other):
        one.save(tmp_path / "b")
    assert OnlineAdapter.load(tmp_path / "b", language_model()).version == adapter.version


def test_the_language_model_of_now():
    adapter = OnlineAdapter(language_model(), PLAIN)
    assert np.array_equal(adapter.lm.score(TEXT[:20]), language_model().score(TEXT[:20]))
    adapter.feed(TEXT)
    now = adapter.lm
    assert adapter.lm is now
    better = now.score(TEXT[:60]).sum()
    assert better > language_model().score(TEXT[:60]).sum() + 10
    adapter.feed(ids_of(9).tolist())
    assert adapter.lm is not now
    assert now.score(TEXT[:60]).sum() == better  # it stays what it was


def test_a_session_stands_where_the_text_does():
    """With a rate of zero it is the session that has read the same."""
    still = OptimizerConfig(algorithm="sgd", learning_rate=0.0)
    still_adam = dataclasses.replace(RICH.optimizer, learning_rate=0.0)
    for choices in (
        dataclasses.replace(PLAIN, optimizer=still),
        dataclasses.replace(RICH, optimizer=still_adam),
    ):
        adapter, session = OnlineAdapter(language_model(), choices), language_model().session()
        for piece in (TEXT[:2], TEXT[2:301]):
            adapter.feed(piece)
            session.read(piece)
            expected = session.fork().complete(max_tokens=4).tokens
            assert adapter.session().complete(max_tokens=4).tokens == expected
        assert adapter.session().tokens_seen == session.tokens_seen
        assert (adapter.state is None) == (choices.state == "reset")


def test_documents_begin_anew_or_go_on():
    adapter = OnlineAdapter(language_model(), PLAIN)
    first = np.concatenate([adapter.feed(TEXT[:40]), adapter.start()])
    assert len(first) == 40
    again = np.concatenate([adapter.feed(TEXT[:40]), adapter.flush()])
    np.testing.assert_array_equal(again, first)
    assert adapter.version == 10  # all updates count
    kept = OnlineAdapter(language_model(), dataclasses.replace(PLAIN, reset_parameters=False))
    kept.feed(TEXT[:40])
    kept.start()
    later = np.concatenate([kept.feed(TEXT[:40]), kept.flush()])
    assert later.sum() > first.sum() + 1


def test_a_loss_that_is_not_finite_stops_it(tmp_path):
    broken = OptimizerConfig(algorithm="sgd", learning_rate=1e30)
    adapter = OnlineAdapter(language_model(), dataclasses.replace(PLAIN, optimizer=broken))
    with pytest.raises(LossNotFinite, match=r"not finite from token 9 on; .* version 0, and"):
        adapter.feed(ids_of(30).tolist())
    expected = language_model().score(TEXT[:20])
    np.testing.assert_array_equal(adapter.lm.score(TEXT[:20]), expected)
    for act in (lambda: adapter.feed("a"), adapter.flush):
        with pytest.raises(UserError, match="this adapter has stopped"):
            act()
    adapter.save(tmp_path / "a")
    assert len(adapter.start()) == 0
    assert len(adapter.feed(ids_of(9).tolist())) == 8


def test_what_is_refused():
    adapter = OnlineAdapter(language_model(), PLAIN)
    with pytest.raises(UserError, match="token 300 is outside the vocabulary"):
        adapter.feed([300])
    assert len(adapter.flush()) == 0  # an empty stream
    with pytest.raises(UserError, match="feed token ids"):
        OnlineAdapter(LanguageModel(language_model().model), PLAIN).feed("a")
    with pytest.raises(UserError, match="this document: 40 tokens are more than context_length"):
        OnlineAdapter(language_model(MQA), PLAIN).feed(ids_of(40).tolist())


def test_a_code_alone_is_adapted_saved_and_reset(tmp_path):
    folder = write_templates(tmp_path / "templates")
    adam = OptimizerConfig(algorithm="adam", learning_rate=0.1)
    choices = DynamicConfig(parameters="code", templates=folder, segment_length=8, optimizer=adam)
    adapter = OnlineAdapter(language_model(), choices)
    first = np.asarray(adapter.adapted["hyper_code"])
    adapter.feed(ids_of(17).tolist())
    assert adapter.version == 2
    moved = np.asarray(adapter.adapted["hyper_code"])
    assert moved.shape == (3, 3)
    assert np.abs(moved - first).max() > 0.05
    adapter.save(tmp_path / "a")
    again = OnlineAdapter.load(tmp_path / "a", language_model())
    more = ids_of(16, seed=1).tolist()
    np.testing.assert_array_equal(again.feed(more), adapter.feed(more))
    adapter.start()
    np.testing.assert_array_equal(adapter.adapted["hyper_code"], first)
    weights = hyper_adapters.read(folder)
    changed = {name: x + 1 for name, x in weights.templates.items()}
    shutil.rmtree(folder)
    hyper_adapters.write(folder, dataclasses.replace(weights, templates=changed))
    with pytest.raises(UserError, match="adapts a code of other templates than those in"):
        OnlineAdapter.load(tmp_path / "a", language_model())
