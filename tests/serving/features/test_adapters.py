# SPDX-License-Identifier: Apache-2.0
"""Each request has its own adapter, to the bit, whoever else is there and whatever was loaded."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import adapters as files
from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.adapters import A, B, adapted_layers, attach
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.reading import START
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.lora_config import LoraConfig
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.features.adapters import (
    Adapters,
    NoSuchAdapter,
    bank_for,
    chosen,
    named_paths,
)
from serving.features.prefix_cache import PrefixCache

RANK, SCALE = 2, 1.5


def adapter(engine, seed: int) -> dict[str, np.ndarray]:
    """One that changes nearly every answer."""
    rng = np.random.default_rng(seed)
    flat = {}
    for layer, (outputs, inputs) in adapted_layers(engine.lm.config, LoraConfig(rank=RANK)).items():
        flat[f"{layer}/{A}"] = rng.normal(size=(inputs, RANK)).astype(np.float32) / 4
        flat[f"{layer}/{B}"] = rng.normal(size=(RANK, outputs)).astype(np.float32) / 4
    return flat


@pytest.fixture
def engine(griffin):
    """With a cache of its own, which makes no difference; without adapters at the end."""
    assert griffin.adapters is not None
    griffin._intake._cache = PrefixCache(device_bytes=2**24)
    yield griffin
    griffin._intake._cache = None
    for name in griffin.adapters.names:
        griffin.adapters.drop(name)


def request_of(engine, prompt, name: str | None = None, **options) -> Any:
    chosen = None if name is None else engine.adapters.get(name)
    sampling = Sampling(
        **({"max_tokens": 12, "temperature": 1.0, "seed": 5, "ignore_eos": True} | options)
    )
    return GenerationRequest(prompt=tuple(prompt), sampling=sampling, logprobs=2, adapter=chosen)


def answers(engine: Engine, requests) -> list[list]:
    """The tokens with their scores of each."""
    ids = [engine.submit(request) for request in requests]
    scores = {id: [] for id in ids}
    while engine.busy:
        for event in engine.step():
            scores[event.request_id] += event.scores
    return [scores[id] for id in ids]


def tokens(scores) -> list[int]:
    return [score.token_id for score in scores]


def expected(engine: Engine, flat, request: GenerationRequest) -> list[int]:
    model = attach(engine.lm.model, flat, scale=SCALE)
    lm = LanguageModel(model, engine.lm.tokenizer)
    return lm.complete([tuple(request.prompt)], sampling=request.sampling)[0].tokens


PROMPT = list(b"All the world's a stage, " * 12)  # more than two chunks


def test_three_slots_three_adapters(engine):
    flats = {name: adapter(engine, seed) for seed, name in enumerate(("one", "two"))}
    for name, flat in flats.items():
        engine.adapters.add(name, flat, scale=SCALE)
    requests = [request_of(engine, PROMPT, name) for name in (None, "one", "two")]
    alone = [answers(engine, [request])[0] for request in requests]
    full = answers(engine, requests)
    assert full == alone  # log-probabilities included, from a cold cache and from a warm one
    assert tokens(alone[0]) == engine.lm.complete([PROMPT], sampling=requests[0].sampling)[0].tokens
    for request, scores in zip(requests[1:], alone[1:], strict=True):
        assert tokens(scores) == expected(engine, flats[request.adapter.name], request)
    assert len({tuple(tokens(scores)) for scores in alone}) == 3


def test_the_base_gives_the_bits_that_it_gives_without_adapters(engine):
    request = request_of(engine, PROMPT)
    before = answers(engine, [request])
    for seed in range(4):
        engine.adapters.add(f"{seed}", adapter(engine, seed), scale=SCALE)
    beside = [request_of(engine, PROMPT[seed:], f"{seed}", max_tokens=30) for seed in range(2)]
    assert answers(engine, [request, *beside])[:1] == before


def test_another_version_is_another_adapter(engine):
    """No state of the first one is found for the second, though name and prompt are the same."""
    cache = engine._intake._cache
    engine.adapters.add("it", adapter(engine, 1), scale=SCALE)
    first = request_of(engine, PROMPT, "it")
    (scores,) = answers(engine, [first])
    assert cache.counts.hit == 0
    assert answers(engine, [first]) == [scores]
    hit = cache.counts.hit
    assert hit == 256
    version = first.adapter.version
    engine.adapters.drop("it")
    engine.adapters.add("it", flat := adapter(engine, 2), scale=SCALE)
    second = request_of(engine, PROMPT, "it")
    assert second.adapter.version != version
    (others,) = answers(engine, [second])
    assert cache.counts.hit == hit
    assert tokens(others) == expected(engine, flat, second) != tokens(scores)
    assert answers(engine, [first]) == [scores]  # it holds its place, and its bits
    engine.adapters.drop("it")
    engine.adapters.add("it", adapter(engine, 1), scale=SCALE)
    again = request_of(engine, PROMPT, "it")
    assert answers(engine, [again]) == [scores]  # whatever its place
    assert again.adapter.version == version
    assert again.adapter.place != first.adapter.place


def test_a_place_is_free_when_nobody_holds_it(engine):
    for seed in range(4):
        engine.adapters.add(f"{seed}", adapter(engine, seed), scale=SCALE)
    request = request_of(engine, PROMPT, "2", max_tokens=200)
    engine.submit(request)
    engine.step()
    engine.adapters.drop("2")
    with pytest.raises(NoSuchAdapter, match="no adapter '2'"):
        engine.adapters.get("2")
    with pytest.raises(UserError, match="all 4 places for adapters are taken"):
        engine.adapters.add("4", adapter(engine, 4), scale=SCALE)
    place = request.adapter.place
    del request
    while engine.busy:
        engine.step()
    engine._intake._cache.clear()
    assert engine.adapters.add("4", adapter(engine, 4), scale=SCALE).place == place


def test_files(engine, tmp_path: Path):
    flat = adapter(engine, 3)
    read = files.from_flat(tmp_path, flat, alpha=SCALE * RANK, base="somewhere")
    files.write(tmp_path / "peft", read)
    loaded = engine.adapters.load("peft", str(tmp_path / "peft"))
    assert engine.adapters.names == ["peft"]
    engine.adapters.drop("peft")
    assert loaded.version == engine.adapters.add("x", flat, scale=SCALE).version
    with pytest.raises(UserError, match="holds no adapters"):
        engine.adapters.load("y", str(tmp_path))
    name = next(iter(flat))
    wider = files.from_flat(tmp_path, {**flat, name: np.zeros((99, RANK))}, alpha=1, base="")
    files.write(tmp_path / "wider", wider)
    with pytest.raises(UserError, match="are of a layer of another size"):
        engine.adapters.load("y", str(tmp_path / "wider"))
    assert engine.adapters.names == ["x"]


def test_refusals(engine):
    flat = adapter(engine, 3)
    bank = AdapterBank(
        engine.lm.model, adapted_layers(engine.lm.config, LoraConfig(rank=RANK)), count=1, rank=8
    )
    adapters = Adapters(bank, reserved=frozenset({"base"}))
    with pytest.raises(UserError, match="a model 'base' here already"):
        adapters.add("base", flat, scale=1)
    adapters.add("a", flat, scale=1)
    with pytest.raises(UserError, match="a model 'a' here already"):
        adapters.add("a", flat, scale=1)
    with pytest.raises(UserError, match="up to 200 characters"):
        adapters.add("", flat, scale=1)
    with pytest.raises(UserError, match="not finite"):
        adapters.add("b", flat | _nan(flat), scale=1)


def test_adapters_with_a_name_leave_the_kept_places(engine):
    flat = adapter(engine, 3)
    adapters = Adapters(AdapterBank(engine.lm.model, engine.adapters.bank.layers, count=3, rank=8))
    adapters.keep(2)
    held = adapters.add("a", flat, scale=1)
    with pytest.raises(UserError, match="all 1 places for adapters are taken"):
        adapters.add("b", flat, scale=1)
    learned = [adapters.place("session x", flat, scale=1) for _ in range(2)]
    assert len({held.place, *(one.place for one in learned)}) == 3
    adapters.drop("a")
    with pytest.raises(UserError, match="all 1 places for adapters are taken"):
        adapters.add("b", flat, scale=1)  # somebody holds what was dropped
    del held
    adapters.add("b", flat, scale=1)


def test_a_sessions_state_is_the_bases(engine):
    engine.adapters.add("x", adapter(engine, 3), scale=SCALE)
    before = START._replace(state=engine._programs.empty, unread=(1,))
    request = dataclasses.replace(request_of(engine, PROMPT, "x"), before=before)
    with pytest.raises(UserError, match="the session's state is of the base, and the request asks"):
        engine.check(request)


def _nan(flat):
    name = next(iter(flat))
    return {name: np.full_like(flat[name], np.nan)}


def test_nothing_is_compiled_for_an_adapter(engine):
    programs, bank = engine._programs, engine.adapters.bank
    compiled = [programs._read.jitted, programs._decode, bank._put]
    engine.warm_up()
    before = [function._cache_size() for function in compiled]
    engine.adapters.add("x", adapter(engine, 3), scale=SCALE)
    answers(engine, [request_of(engine, PROMPT, "x"), request_of(engine, PROMPT)])
    assert [function._cache_size() for function in compiled] == before


def test_a_request_keeps_its_adapter(engine):
    request = request_of(engine, PROMPT)
    engine.adapters.add("x", adapter(engine, 3), scale=SCALE)
    of_x = dataclasses.replace(request, adapter=engine.adapters.get("x"))
    with pytest.raises(AssertionError):
        engine.submit_all([request, of_x])


def test_what_a_requests_model_means(engine):
    assert chosen(None, "x") is None
    assert chosen(engine.adapters, None) is None
    assert chosen(engine.adapters, "griffin") is None  # the name of the base
    engine.adapters.add("x", adapter(engine, 3), scale=SCALE)
    assert chosen(engine.adapters, "x") is engine.adapters.get("x")
    with pytest.raises(NoSuchAdapter):
        chosen(engine.adapters, "y")


def test_a_bank_for_what_is_asked_for(engine, tmp_path: Path):
    model = engine.lm.model
    flat = {name: x for name, x in adapter(engine, 3).items() if "mlp" in name}
    files.write(tmp_path, files.from_flat(tmp_path, flat, alpha=1, base=""))
    paths = named_paths([f"a={tmp_path}"])
    assert paths == {"a": str(tmp_path)}
    bank = bank_for(model, paths, count=1, rank=0, any_layer=False)
    assert (bank.rank, bank.count, len(bank.layers)) == (8, 1, len(flat) // 2)
    bank = bank_for(model, {}, count=3, rank=0, any_layer=True)
    assert (bank.rank, bank.count) == (16, 3)
    assert len(bank.layers) > len(flat) // 2
    with pytest.raises(UserError, match="--adapter-rank 1: one of the adapters has rank 2"):
        bank_for(model, paths, count=1, rank=1, any_layer=False)
    with pytest.raises(UserError, match="--max-adapters 1: expected at least 2"):
        bank_for(model, paths | {"b": str(tmp_path)}, count=1, rank=0, any_layer=False)
    for wrong in (["a"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="expected NAME=PATH"):
            named_paths(wrong)
