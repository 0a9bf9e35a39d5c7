# SPDX-License-Identifier: Apache-2.0
"""Answers are drawn from the policy itself, end where they should, and compile nothing again."""

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.generation.lm import LanguageModel
from tests.training.finetuning.small_policy import (
    ANSWER,
    MOST,
    STOPS,
    TOKENIZER,
    questions,
    sampler,
    split_model,
)
from training.configs import TrainConfig
from training.finetuning.rollout import Rollout, Sampler


@pytest.fixture(scope="module")
def parts(small: TrainConfig):
    graphdef, params = split_model(small)
    return graphdef, params, sampler(graphdef, small)


def test_log_probabilities_are_those_of_the_model(parts):
    graphdef, params, drawing = parts
    asked = questions()
    rollout, texts = drawing.draw(params, asked, seed=[1, 2])
    lm = LanguageModel(nnx.merge(graphdef, params), TOKENIZER)
    assert rollout.tokens_BT.shape == (6, MOST + ANSWER)
    for row, question in enumerate(asked):
        start, count = len(question.ids), rollout.answer_B[row]
        ids = rollout.tokens_BT[row, : start + count].tolist()
        assert tuple(ids[:start]) == question.ids
        logits = np.asarray(lm.logits([ids[:-1]])[0, :, : TOKENIZER.vocab_size], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        want = [log_p[place - 1, ids[place]] for place in range(start, start + count)]
        np.testing.assert_allclose(rollout.log_prob_BA[row, :count], want, atol=1e-5)
        ended = ids[-1] in STOPS
        assert texts[row] == TOKENIZER.decode(ids[start : len(ids) - ended])
        assert ended or count == ANSWER
    assert not rollout.tokens_BT[0, len(asked[0].ids) + rollout.answer_B[0] :].any()


def test_the_seed_decides_and_new_parameters_compile_nothing(parts, small: TrainConfig):
    _, params, drawing = parts
    asked = questions()
    first, again = (drawing.draw(params, asked, seed=[3])[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = drawing.draw(params, asked, seed=[4])[0]
    assert (first.tokens_BT != other.tokens_BT).any()
    count = drawing._generator._decode._cache_size()  # type: ignore[attr-defined]
    another = drawing.draw(split_model(small, seed=1)[1], asked, seed=[3])[0]
    assert (first.tokens_BT != another.tokens_BT).any()
    assert drawing._generator._decode._cache_size() == count  # type: ignore[attr-defined]


def test_the_likeliest_tokens(parts):
    graphdef, params, drawing = parts
    asked = questions()
    _, texts = drawing.draw(params, asked, seed=[0], temperature=0.0)
    lm = LanguageModel(nnx.merge(graphdef, params), TOKENIZER)
    want = lm.generate(
        [question.ids for question in asked], max_tokens=ANSWER, stop_token_ids=[STOPS[0]]
    )
    assert texts == want


def test_what_was_cut_off(parts):
    drawing: Sampler = parts[2]
    tokens = np.array([[1, 2, ord("e"), 0], [1, 2, 3, ord("e")], [1, 257, 0, 0]], np.int32)
    lengths = np.array([1, 1, 1], np.int32), np.array([2, 2, 1], np.int32)
    rollout = Rollout(tokens, *lengths, np.zeros((3, 2)), np.zeros(3))
    np.testing.assert_array_equal(drawing.is_cut(rollout), [False, True, False])
