# SPDX-License-Identifier: Apache-2.0
"""Biases and penalties are those of the formula, token by token, and change no other row."""

import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.logit_changes import changed, logit_changes
from recurrentgemma.generation.sampling import Sampling
from tests.recurrentgemma.generation.small_models import lm_of

pytestmark = pytest.mark.usefixtures("small_chunks")

V = 64  # of the test models
CASES = {
    "bias": Sampling(max_tokens=20, logit_bias=((3, 4.0), (9, -100.0))),
    "frequency": Sampling(max_tokens=20, frequency_penalty=0.7),
    "presence": Sampling(max_tokens=20, presence_penalty=2.0),
    "repetition": Sampling(max_tokens=20, repetition_penalty=5.0),
    "all": Sampling(
        max_tokens=20,
        logit_bias=((3, 4.0),),
        frequency_penalty=0.7,
        presence_penalty=0.3,
        repetition_penalty=0.6,
        stop_token_ids=(3, 5),
        min_tokens=6,
    ),
    "none": Sampling(max_tokens=20),
}
PROMPT = [7, 8, 9, 8, 10]


@pytest.fixture(scope="module")
def griffin():
    return lm_of("griffin")


def naive(lm, sampling: Sampling) -> list[int]:
    """The greedy answer by the definition, one token after the other."""
    answer: list[int] = []
    while len(answer) < sampling.max_tokens:
        z = lm.logits([[*PROMPT, *answer]])[0, -1].astype(np.float64)
        for token in {*PROMPT, *answer}:
            r = sampling.repetition_penalty
            z[token] = z[token] / r if z[token] > 0 else z[token] * r
        for token in set(answer):
            z[token] -= sampling.frequency_penalty * answer.count(token)
            z[token] -= sampling.presence_penalty
        for token, bias in sampling.logit_bias:
            z[token] += bias
        if len(answer) < sampling.min_tokens:
            z[list(sampling.stop_token_ids)] = -np.inf
        answer.append(int(z.argmax()))
        if answer[-1] in sampling.stop_token_ids:
            break
    return answer


def test_answers_are_those_of_the_definition(griffin):
    """All in one batch: each row changes its own logits, and one changes none."""
    answers = griffin.complete([PROMPT] * len(CASES), sampling=list(CASES.values()))
    tokens = {}
    for (name, sampling), answer in zip(CASES.items(), answers, strict=True):
        tokens[name] = naive(griffin, sampling)
        ended = tokens[name][-1] in sampling.stop_token_ids
        assert answer.tokens == tokens[name][: len(tokens[name]) - ended], name
        assert answer.finish_reason == ("stop" if ended else "length")
    assert len({tuple(row) for row in tokens.values()}) == len(CASES)  # each makes a difference
    assert len(tokens["all"]) > 6
    assert griffin.complete([PROMPT], sampling=CASES["none"])[0].tokens == tokens["none"]


def test_a_row_that_asks_for_nothing_keeps_its_bits():
    logits_BV = np.random.default_rng(0).standard_normal((2, V)).astype(np.float32)
    changes = logit_changes([CASES["all"], Sampling()], [PROMPT, PROMPT], V)
    assert changes is not None
    stop_BS = jnp.array([[3, 5], [3, -1]])
    counts_BV = np.ones((2, V), np.int32)
    new_BV = changed(jnp.asarray(logits_BV), changes, counts_BV, jnp.array([0, 0]), stop_BS)  # type: ignore[arg-type]
    np.testing.assert_array_equal(new_BV[1], logits_BV[1])
    assert np.isneginf(np.asarray(new_BV[0, [3, 5]])).all()
    assert np.isfinite(np.asarray(new_BV)).sum() == 2 * V - 2


def test_nothing_asked_for_is_no_program_of_its_own():
    assert logit_changes([Sampling(), Sampling(seed=3)], [PROMPT, PROMPT], V) is None


def test_a_bias_outside_of_the_vocabulary(griffin):
    with pytest.raises(UserError, match="logit_bias: token 64 is outside the vocabulary of 64"):
        griffin.complete([PROMPT], logit_bias={64: 1.0})


def test_what_ends_an_answer(griffin):
    """ignore_eos and stop_token_ids, by the tokens that the model would give anyway."""
    free = griffin.complete([PROMPT], max_tokens=12)[0].tokens
    ended = griffin.complete([PROMPT], max_tokens=12, stop_token_ids=[free[4]])[0]
    first = free.index(free[4])
    assert (ended.tokens, ended.finish_reason) == (free[:first], "stop")
