# SPDX-License-Identifier: Apache-2.0
"""Guesses change no token and no bit that depends on anybody else; they only save steps."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.engine.speculation import PAUSE, RECENT, Speculation
from serving.features.draft import DraftProposals
from serving.features.proposals import NgramProposer

SLOTS = 3
WORDS = b"to be or not to be or not to be or not "


@pytest.fixture(scope="module", params=["ngram", "draft"])
def engine(request, language_model) -> Engine:
    """With `least_tokens` that sequences guess on, rest and guess again."""
    lm = language_model("griffin")
    proposer = NgramProposer() if request.param == "ngram" else DraftProposals(lm, lm, SLOTS)
    engine = Engine(lm, slots=SLOTS, constrained=True, proposer=proposer, least_tokens=1.5)
    engine.warm_up()
    return engine


def request_of(prompt, *, max_tokens=90, **options) -> GenerationRequest:
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True, **options)
    return GenerationRequest(prompt=tuple(prompt), sampling=sampling, logprobs=2)


def answers(engine, requests, *, every: int = 0) -> list[list]:
    """The tokens with their scores of each; one comes every so many steps."""
    waiting, ids, scores, step = list(requests), [], {}, 0
    while waiting or engine.busy:
        while waiting and len(ids) * every <= step:
            ids.append(engine.submit(waiting.pop(0)))
            scores[ids[-1]] = []
        for event in engine.step():
            scores[event.request_id] += event.scores
        step += 1
    return [scores[id] for id in ids]


def tokens(scores) -> list[int]:
    return [score.token_id for score in scores]


REQUESTS = [
    request_of(WORDS),
    request_of(WORDS, temperature=1.0, seed=1),
    request_of(WORDS * 8, temperature=0.6, top_p=0.9, seed=2),
    request_of(b"x", temperature=1.0, seed=3, max_tokens=200),
    request_of(WORDS, presence_penalty=1.0),  # never guesses
    request_of(b"abcabcabcabc", max_tokens=1),
    request_of(b"abcabcabcabc", stop_token_ids=(98,), temperature=1.0, seed=3),
    request_of(WORDS * 3, stop=("e",), temperature=1.0, seed=9),
]


def test_the_tokens_are_those_of_plain_decoding(engine):
    told = answers(engine, REQUESTS)
    assert engine.speculation.verified > 0
    for request, scores in zip(REQUESTS, told, strict=True):
        prompt, sampling = tuple(request.prompt), request.sampling
        (plain,) = engine.lm.complete([prompt], logprobs=0, sampling=sampling)
        count = min(len(scores), len(plain.tokens))  # without what a stop string or token is of
        assert count >= max(len(scores) - 1, min(1, len(plain.tokens)))
        assert tokens(scores)[:count] == plain.tokens[:count]
        logp = [score.logprob for score in scores[:count]]
        np.testing.assert_allclose(logp, plain.logprobs[:count], atol=1e-4)


def test_a_full_server_gives_the_bits_of_an_idle_one(engine):
    alone = [answers(engine, [request])[0] for request in REQUESTS]
    assert answers(engine, REQUESTS) == alone
    assert answers(engine, REQUESTS[::-1], every=2)[::-1] == alone
    engine._steps = 1
    assert answers(engine, REQUESTS, every=1) == alone


def test_right_guesses_save_steps(engine):
    """A draft that is the model itself is always right when it takes the likeliest."""
    speculation = engine.speculation
    speculation.verified = speculation.accepted = speculation.proposed = 0
    answers(engine, [request_of(WORDS, max_tokens=60)])
    if isinstance(speculation._proposer, DraftProposals):
        assert speculation.accepted == speculation.proposed
        assert speculation.verified <= 9
    assert speculation.accepted > 0


def test_nothing_is_compiled_after_the_warm_up(engine):
    programs = engine._programs
    compiled = [programs._decode, programs._take, programs._insert]
    compiled += [engine.speculation._verifier._verify]
    before = [function._cache_size() for function in compiled]
    answers(engine, REQUESTS)
    assert [function._cache_size() for function in compiled] == before


class Wrong:
    """Guesses what hardly ever comes."""

    def begin(self, slot, tokens, sampling) -> None: ...

    def extend(self, slot, tokens) -> None: ...

    def next(self, most, counts):
        return {slot: [7] * count for slot, count in most.items()}

    def warm_up(self) -> None: ...


def test_wrong_guesses_are_given_up_and_tried_again(griffin):
    speculation = Speculation(griffin._programs, 3, Wrong(), stop_ids=(), least=1.5)
    engine = griffin
    engine.speculation = speculation
    request = request_of(WORDS, max_tokens=RECENT + 2 + PAUSE + 20)
    id, on, scores = engine.submit(request), [], []
    while engine.busy:
        for event in engine.step():
            assert event.request_id == id
            scores += event.scores
        on.append((len(scores), bool(speculation.guessing)))
    engine.speculation = None
    assert (
        tokens(scores) == engine.lm.complete([request.prompt], sampling=request.sampling)[0].tokens
    )
    paused = [count for count, guesses in on if not guesses and count < len(scores)]
    assert min(paused) in (RECENT + 1, RECENT + 2)
    assert any(guesses and count >= min(paused) + PAUSE for count, guesses in on)


def test_where_it_cannot_pay_nobody_guesses(griffin):
    speculation = Speculation(griffin._programs, 3, Wrong(), stop_ids=(), width=4, least=4)
    assert not speculation.takes(REQUESTS[0])
    assert Speculation(griffin._programs, 3, Wrong(), stop_ids=(), least=2).takes(REQUESTS[0])


def test_a_draft_of_another_vocabulary(language_model):
    lm = language_model("griffin")
    with pytest.raises(UserError, match="another tokenizer"):
        DraftProposals(language_model("griffin", None), lm, 2)
    with pytest.raises(UserError, match="global attention"):
        DraftProposals(language_model("mqa"), lm, 2)
