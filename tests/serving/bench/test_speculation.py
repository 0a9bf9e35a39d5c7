# SPDX-License-Identifier: Apache-2.0
"""The measurement runs, here with a model of no size, which is its own draft."""

from serving.bench.speculation import SpeculationBenchArguments, measure, model
from serving.features.draft import DraftProposals


def test_four_cases(language_model):
    lm = language_model("hawk")
    arguments = SpeculationBenchArguments(path="", plain="Once", tokens=80, calls=1, least=1.0)
    results = dict(measure(arguments, lm, DraftProposals(lm, lm, 1)))
    assert list(results) == [
        "repetitive, greedy",
        "repetitive, sampled",
        "plain, greedy",
        "plain, sampled",
    ]
    assert results["plain, greedy"].stood == 1
    assert results["plain, greedy"].tokens_each > 4
    assert all(result.plain > 0 and result.guessing > 0 for result in results.values())


def test_a_preset_has_random_weights():
    lm = model("tiny")
    assert lm.config.vocab_size == 512
    assert lm.tokenizer is not None
    assert lm.tokenizer.vocab_size <= 512
