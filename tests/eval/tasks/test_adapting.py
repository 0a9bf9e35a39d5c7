# SPDX-License-Identifier: Apache-2.0
"""A model that learns from each request: from a context before its answers, from a document while
it is scored; and nothing of one request is left in the next."""

import numpy as np
import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.stream import dynamic_evaluation
from eval.tasks.adapting import Adapting
from eval.tasks.harness import AsItIs
from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from tests.eval.tasks.models import byte_model

CHOICES = DynamicConfig(
    parameters="mlp",
    segment_length=8,
    optimizer=OptimizerConfig(algorithm="sgd", learning_rate=0.05),
)
CONTEXT = [258, *b"It was the best of times, it was the"]
PAIRS = [(CONTEXT, list(b" worst")), ([258], list(b"It")), (CONTEXT, list(b" best"))]


def nothing(count: int) -> None:
    pass


def nats(reader) -> list[float]:
    return [one.log_probability for one in reader.score(PAIRS, nothing)]


def test_it_learns_from_a_context_and_forgets_it_again():
    lm = byte_model("griffin")
    reader, static = Adapting(lm, CHOICES), nats(AsItIs(lm))
    adapted = nats(reader)
    assert adapted[1] == pytest.approx(static[1], abs=1e-4), "one token is nothing to learn from"
    assert abs(adapted[2] - static[2]) > 0.1
    assert nats(reader) == adapted
    text = "It was the best of times, it was the worst of times."
    (whole,) = reader.score_documents([[258, *text.encode()]], nothing)
    assert whole == pytest.approx(-dynamic_evaluation(lm, [text], CHOICES).score.nats, rel=1e-6)
    assert nats(reader) == adapted


def test_a_model_that_learns_nothing_reads_as_it_is():
    lm = byte_model("griffin")
    still = DynamicConfig(optimizer=OptimizerConfig(algorithm="none"), segment_length=8)
    reader, static = Adapting(lm, still), AsItIs(lm)
    np.testing.assert_allclose(nats(reader), nats(static), atol=1e-4)
    samplings = [Sampling(max_tokens=4), Sampling(max_tokens=6, stop=("e",))]
    prompts = [CONTEXT, [258, 65]]
    assert reader.complete(prompts, samplings) == static.complete(prompts, samplings)
    (completion,) = lm.complete([CONTEXT], max_tokens=4)
    pairs = [(CONTEXT, completion.tokens), (CONTEXT, [*completion.tokens[:3], 1]), (CONTEXT, [])]
    assert [one.greedy for one in reader.score(pairs, nothing)] == [True, False, True]


def test_parameters_that_are_kept_are_refused():
    with pytest.raises(UserError, match="requests have no order"):
        Adapting(byte_model("griffin"), DynamicConfig(reset_parameters=False))
