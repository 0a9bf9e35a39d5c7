# SPDX-License-Identifier: Apache-2.0
"""The contract in one run: 200 requests of all kinds that come at random, some of them cancelled,
with prompts that begin alike, several answers to one prompt, sessions' and adapters' requests. Each
gets what the model generates alone, and the bits that it gets on an idle server with a cold cache.
"""

import dataclasses

import numpy as np
import pytest

from recurrentgemma.adapters import attach
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import GenerationRequest
from serving.features.prefix_cache import PrefixCache
from tests.serving.features.test_adapters import SCALE, adapter


@pytest.fixture
def engine(griffin):
    for seed in range(2):
        griffin.adapters.add(f"{seed}", adapter(griffin, seed), scale=SCALE)
    yield griffin
    griffin._intake._cache = None
    for name in griffin.adapters.names:
        griffin.adapters.drop(name)


def requests_of(engine, count: int) -> list[list[GenerationRequest]]:
    """Each is submitted as one: several answers to one prompt have consecutive seeds."""
    rng = np.random.default_rng(7)
    shared = rng.integers(0, 256, 400).tolist()
    asked, number = [], 0
    while number < count:
        length = int(rng.choice([1, 5, 17, 60, 129, 300, 500]))
        own = rng.integers(0, 256, length).tolist()
        prompt = (shared + own if rng.random() < 0.4 else own)[: max(1, length)]
        name = [None, None, "0", "1"][rng.integers(4)]
        seed = int(rng.integers(2**31))
        sampling = Sampling(
            max_tokens=int(rng.integers(1, 14)),
            temperature=float(rng.choice([0.0, 0.7, 1.0])),
            top_k=int(rng.choice([0, 20])),
            top_p=float(rng.choice([1.0, 0.9])),
            seed=seed,
            presence_penalty=float(rng.choice([0.0, 0.0, 0.5])),
            ignore_eos=bool(rng.integers(2)),
        )
        request = GenerationRequest(
            prompt=tuple(prompt),
            sampling=sampling,
            logprobs=2,
            adapter=None if name is None else engine.adapters.get(name),
        )
        forks = int(rng.choice([1, 1, 1, 3]))
        asked.append([
            dataclasses.replace(
                request, sampling=dataclasses.replace(sampling, seed=seed + k)
            )
            for k in range(forks)
        ])  # fmt: skip
        number += forks
    return asked


def run(engine, asked, *, cancelled=frozenset(), singly=False) -> dict[tuple[int, int], list]:
    """The scores of the k-th answer to the i-th; `singly`: one after the other, the cache cold."""
    rng, waiting = np.random.default_rng(1), list(enumerate(asked))
    keys, scores, step = {}, {}, 0
    while waiting or engine.busy:
        while waiting and (not engine.busy if singly else rng.random() < 0.5):
            if singly:
                engine._intake._cache = PrefixCache(device_bytes=2**24)
            i, requests = waiting.pop(0)
            for k, id in enumerate(engine.submit_all(requests)):
                keys[id], scores[i, k] = (i, k), []
        for event in engine.step():
            scores[keys[event.request_id]] += event.scores
            if event.finish_reason is not None:
                del keys[event.request_id]
        step += 1
        for id, key in list(keys.items()):
            if key in cancelled and rng.random() < 0.3:
                engine.cancel(id)
                del keys[id]
    return scores


def check(engine, count: int) -> None:
    asked = requests_of(engine, count)
    cancelled = frozenset((i, 0) for i in range(0, len(asked), 9))
    engine._intake._cache = cache = PrefixCache(device_bytes=2**24)
    full = run(engine, asked, cancelled=cancelled)
    assert cache.counts.hit > 0
    warm = run(engine, asked)
    alone = run(engine, asked, singly=True)
    models: dict[str | None, LanguageModel] = {None: engine.lm}
    for seed in range(2):
        model = attach(engine.lm.model, adapter(engine, seed), scale=SCALE)
        models[f"{seed}"] = LanguageModel(model, engine.lm.tokenizer)
    for (i, k), scores in alone.items():
        assert warm[i, k] == scores
        assert full[i, k] == scores[: len(full[i, k])]
        assert (i, k) in cancelled or len(full[i, k]) == len(scores)
        request = asked[i][k]
        lm = models[None if request.adapter is None else request.adapter.name]
        (expected,) = lm.complete([tuple(request.prompt)], sampling=request.sampling)
        tokens = [score.token_id for score in scores]
        assert tokens[: len(expected.tokens)] == expected.tokens
        assert len(tokens) - len(expected.tokens) in (0, 1)  # a stop token


def test_two_dozen_requests(engine):
    check(engine, 24)


@pytest.mark.slow
def test_two_hundred_requests(engine):
    check(engine, 200)
