# SPDX-License-Identifier: Apache-2.0
"""Sessions that learn change no bit of anybody else, and no state of one version meets another."""

import numpy as np
import pytest

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig, OptimizerConfig
from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.lora_config import LoraConfig
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.features.adaptation import AdaptingSessions
from serving.features.adapters import Adapters
from serving.features.prefix_cache import PrefixCache

CHOICES = DynamicConfig(
    parameters="lora",
    segment_length=16,
    lora=LoraConfig(rank=2),
    optimizer=OptimizerConfig(algorithm="adam", learning_rate=0.05),
)
SAMPLING = Sampling(max_tokens=10, temperature=1.0, seed=3, ignore_eos=True)
TURNS = [tuple(b"All the world's a stage, "), tuple(b"and all the men and women "), (65, 66)]


@pytest.fixture(scope="module")
def engine(griffin, language_model) -> Engine:
    """Of eight slots: two sessions that learn, and six requests beside them."""
    lm = griffin.lm
    bank = AdapterBank(lm.model, griffin.adapters.bank.layers, count=4, rank=8)
    return Engine(lm, slots=8, bank=bank, cache=PrefixCache(device_bytes=2**24))


@pytest.fixture
def adapting(engine) -> AdaptingSessions:
    return AdaptingSessions(engine.lm, engine.adapters, most=2, choices=CHOICES, reread=40)


def answers(engine, requests) -> list[list]:
    ids = [engine.submit(request) for request in requests]
    scores = {id: [] for id in ids}
    while engine.busy:
        for event in engine.step():
            scores[event.request_id] += event.scores
    return [scores[id] for id in ids]


def turn(engine, adapting, name: str, ids, beside=()) -> tuple[list, list[list]]:
    request = adapting.request(name, ids, SAMPLING, logprobs=2)
    scores, *others = answers(engine, [request, *beside])
    adapting.answered(name, ids, [score.token_id for score in scores])
    return scores, others


def test_two_that_learn_change_no_bit_of_six(engine, adapting):
    plain = [
        GenerationRequest(prompt=(*range(i, 40 + i),), sampling=SAMPLING, logprobs=2)
        for i in range(6)
    ]
    before = answers(engine, plain)
    adapting.turn_on("a")
    adapting.turn_on("b")
    alone = AdaptingSessions(engine.lm, engine.adapters, most=1, choices=CHOICES, reread=40)
    told = {"a": [], "b": []}
    for ids in TURNS:
        for name, other in (("a", "b"), ("b", "a")):
            beside = [adapting.request(other, (70,), SAMPLING), *plain]
            scores, (_, *six) = turn(engine, adapting, name, (*ids, ord(name)), beside)
            told[name].append(scores)
            assert six == before
    assert adapting.version("a") == adapting.version("b") == 5
    adapting.turn_off("a")
    adapting.turn_off("b")
    alone.turn_on("a")  # nobody beside it
    assert [turn(engine, alone, "a", (*ids, ord("a")))[0] for ids in TURNS] == told["a"]
    alone.turn_off("a")


def test_it_answers_with_what_it_has_learned(engine, adapting):
    """By the parameters of dynamic evaluation, from the last tokens and an empty state."""
    adapting.turn_on("a")
    online, seen = OnlineAdapter(engine.lm, CHOICES), []
    for number, ids in enumerate(TURNS):
        scores, _ = turn(engine, adapting, "a", ids)
        prompt = (*seen[-40:], *ids)
        lm = engine.lm if not number else LanguageModel(online.lm.model, engine.lm.tokenizer)
        tokens = [score.token_id for score in scores]
        assert tokens == lm.complete([prompt], sampling=SAMPLING)[0].tokens
        seen += [*ids, *tokens]
        online.feed([*ids, *tokens])
        assert adapting.version("a") == online.version > number
    adapting.turn_off("a")


def test_no_state_of_another_version(engine, adapting):
    """The same tokens with another version find nothing in the cache."""
    counts = engine.cache.counts
    adapting.turn_on("a")
    long = tuple(np.random.default_rng(0).integers(0, 256, 300).tolist())
    hit = counts.hit
    turn(engine, adapting, "a", long)
    first = adapting.request("a", (), SAMPLING).adapter
    request = GenerationRequest(prompt=long, sampling=SAMPLING, adapter=first)
    answers(engine, [request])
    assert counts.hit == hit
    answers(engine, [request])
    assert counts.hit == hit + 256
    hit = counts.hit
    turn(engine, adapting, "a", long)
    second = adapting.request("a", (), SAMPLING).adapter
    assert first.version != second.version
    answers(engine, [GenerationRequest(prompt=long, sampling=SAMPLING, adapter=second)])
    assert counts.hit == hit
    adapting.turn_off("a")


def test_bounds(engine, adapting):
    adapting.turn_on("a")
    adapting.turn_on("b")
    assert adapting.names == ["a", "b"]
    with pytest.raises(UserError, match="2 sessions adapt, which is the most"):
        adapting.turn_on("c")
    with pytest.raises(UserError, match="'a' adapts already"):
        adapting.turn_on("a")
    with pytest.raises(UserError, match="'c' does not adapt"):
        adapting.request("c", (1,), SAMPLING)
    adapting.turn_off("a")
    with pytest.raises(UserError, match="'a' does not adapt"):
        adapting.version("a")
    assert len(adapting.request("b", (1,) * 99, SAMPLING).prompt) == 99
    adapting.answered("b", (1,) * 99, ())
    assert len(adapting.request("b", (), SAMPLING).prompt) == 40


def test_what_cannot_be(engine):
    with pytest.raises(UserError, match="parameters=lora"):
        AdaptingSessions(engine.lm, engine.adapters, most=1, choices=DynamicConfig())
    wide = DynamicConfig(parameters="lora", lora=LoraConfig(rank=9))
    with pytest.raises(UserError, match="rank 9 are learned, and the server has places for 8"):
        AdaptingSessions(engine.lm, Adapters(engine.adapters.bank), most=1, choices=wide)
