# SPDX-License-Identifier: Apache-2.0
"""An engine over two devices answers what one device answers, and full what it answers idle."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from serving.engine.engine import Engine
from serving.engine.mesh_programs import tensor_mesh
from serving.engine.request import GenerationRequest
from serving.features.prefix_cache import PrefixCache
from serving.features.proposals import NgramProposer
from tests.drawn import untrained


@pytest.fixture(scope="module")
def lm(language_model) -> LanguageModel:
    lm = language_model("griffin")
    config = dataclasses.replace(lm.config, vocab_size=264)
    return LanguageModel(untrained(config, 3), lm.tokenizer)


@pytest.fixture(scope="module")
def engine(lm) -> Engine:
    mesh = tensor_mesh(lm.config, 2)
    cache = PrefixCache(device_bytes=2**24)
    engine = Engine(lm, slots=3, constrained=True, cache=cache, mesh=mesh)
    engine.warm_up()
    return engine


def answers(engine: Engine, requests) -> list[tuple[list, list]]:
    ids = [engine.submit(request) for request in requests]
    told = {id: ([], []) for id in ids}
    while engine.busy:
        for event in engine.step():
            told[event.request_id][0].extend(event.scores)
            told[event.request_id][1].extend(event.prompt_scores)
    return [told[id] for id in ids]


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """What the compiler is asked for meanwhile."""
    asked: list[str] = []

    def told(event: str, duration_secs: float, **more) -> None:
        if "backend_compile" in event:
            asked.append(event)

    jax.monitoring.register_event_duration_secs_listener(told)  # pyright: ignore[reportArgumentType]
    try:
        yield asked
    finally:
        jax.monitoring.unregister_event_duration_listener(told)  # pyright: ignore[reportArgumentType]


def test_it_answers_what_one_device_answers(engine, lm):
    state = engine._slots._state.layers[0].h_BE
    assert len(state.sharding.device_set) == 2
    assert {shard.data.shape[1] for shard in state.addressable_shards} == {16}
    requests = [
        GenerationRequest(
            prompt=((seed + np.arange(length)) % 256).tolist(),
            sampling=Sampling(
                max_tokens=12,
                temperature=float(seed > 0),
                seed=seed,
                ignore_eos=True,
                presence_penalty=float(seed > 2),
            ),
            logprobs=2,
            prompt_logprobs=seed == 1,
        )
        for seed, length in enumerate((3, 40, 300, 17))
    ]
    with compilations() as compiled:
        alone = [answers(engine, [request])[0] for request in requests]
        assert answers(engine, requests) == alone
    assert compiled == []
    for request, (scores, prompt_scores) in zip(requests, alone, strict=True):
        prompt = [int(token) for token in request.prompt]
        (plain,) = lm.complete([prompt], logprobs=0, sampling=request.sampling)
        assert [score.token_id for score in scores] == plain.tokens
        logp = [score.logprob for score in scores]
        np.testing.assert_allclose(logp, plain.logprobs, atol=1e-4)
        if prompt_scores:
            logp = [score.logprob for score in prompt_scores[1:]]
            logits_TV = lm.logits([prompt[:-1]])[0, :, : engine.vocab_size]  # ids of the tokenizer
            expected_TV = jax.nn.log_softmax(logits_TV)
            expected = [expected_TV[i, token] for i, token in enumerate(prompt[1:])]
            np.testing.assert_allclose(logp, expected, atol=1e-4)


def test_refusals(lm):
    with pytest.raises(UserError, match=r"--mesh.tensor 99: expected 1 to"):
        tensor_mesh(lm.config, 99)
    with pytest.raises(ValueError, match="tensor"):
        tensor_mesh(lm.config, min(4, jax.device_count()))
    mesh = tensor_mesh(lm.config, 2)
    with pytest.raises(UserError, match="no adapters and no speculation"):
        Engine(lm, mesh=mesh, proposer=NgramProposer())
