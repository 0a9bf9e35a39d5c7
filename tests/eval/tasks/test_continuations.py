# SPDX-License-Identifier: Apache-2.0
"""Continuations are scored as lm.score scores the whole, however many share a context."""

import jax
import numpy as np
import pytest

from eval.tasks.continuations import ContinuationScorer
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.eval.tasks.models import byte_model

DRAW = np.random.default_rng(0)


def ids(count: int) -> list[int]:
    return DRAW.integers(0, 256, count).tolist()


CONTEXTS = [[258], ids(20), ids(3), ids(150)]
PAIRS = [
    (CONTEXTS[1], ids(1)),
    (CONTEXTS[3], ids(40)),
    (CONTEXTS[0], ids(5)),
    (CONTEXTS[1], ids(18)),
    (CONTEXTS[2], []),
    (CONTEXTS[1], ids(2)),
    (CONTEXTS[3], ids(4)),
]


def expected(lm, context: list[int], continuation: list[int]) -> np.ndarray:
    return lm.score([*context, *continuation])[len(context) - 1 :]


def test_as_the_whole_is_scored():
    lm = byte_model("griffin")
    counts: list[int] = []
    scored = ContinuationScorer(lm, batch_size=2).score(PAIRS, counts.append)
    for pair, continuation in zip(PAIRS, scored, strict=True):
        np.testing.assert_allclose(continuation.nats, expected(lm, *pair), atol=2e-5)
        nats = expected(lm, *pair).sum(dtype=np.float64)
        assert continuation.log_probability == pytest.approx(nats, abs=1e-4)
    assert sum(counts) == len(PAIRS)


def test_greedy_is_what_greedy_decoding_gives():
    lm = byte_model("griffin")
    context = CONTEXTS[1]
    (completion,) = lm.complete([context], max_tokens=18)
    answer = completion.tokens
    assert len(answer) == 18
    others = [[*answer[:i], answer[i] ^ 1, *answer[i + 1 :]] for i in (0, 17)]
    scored = ContinuationScorer(lm).score([(context, ids) for ids in (answer, *others)])
    assert [continuation.greedy for continuation in scored] == [True, False, False]


@pytest.mark.slow
def test_on_a_mesh():
    lm = byte_model("griffin")
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    alone = ContinuationScorer(lm).score(PAIRS)
    (completion,) = lm.complete([CONTEXTS[1]], max_tokens=3)
    pairs = [*PAIRS, (CONTEXTS[1], completion.tokens)]
    shared = ContinuationScorer(lm, batch_size=3, mesh=mesh).score(pairs)
    for one, other in zip(alone, shared, strict=False):
        np.testing.assert_allclose(one.nats, other.nats, atol=2e-5)
        assert one.greedy == other.greedy
    assert shared[-1].greedy


def test_what_cannot_be_scored():
    lm = byte_model("mqa")
    scorer = ContinuationScorer(lm)
    with pytest.raises(UserError, match="need 129 tokens of context"):
        scorer.score([(ids(100), ids(30))])
    with pytest.raises(UserError, match="token 264 is outside the vocabulary"):
        scorer.score([([258], [264])])
