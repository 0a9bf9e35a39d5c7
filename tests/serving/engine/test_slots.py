"""Slots share nothing, and what one held before is gone."""

import numpy as np
import pytest

from recurrentgemma.generation.sampling import Sampling
from serving.engine.prompt_reader import PromptReader, advance
from serving.engine.slots import Slots


@pytest.fixture
def slots(griffin) -> Slots:
    """As many as the engine's, whose programs are compiled."""
    stop_ids = griffin.lm.tokenizer.stop_ids
    return Slots(griffin._programs, griffin.slots, stop_ids=stop_ids, constrained=True)


def put(griffin, slots: Slots, slot: int, prompt, **options) -> None:
    reader = PromptReader(np.array(prompt), griffin._programs.empty)
    while not reader.finished:
        advance(griffin._programs, [reader])
    slots.put(slot, reader.state, prompt, Sampling(**options))


def drain(griffin, slots: Slots, steps: int = 4) -> list[list[int]]:
    """The tokens of each slot but a stop token, until all have ended."""
    tokens: list[list[int]] = [[] for _ in range(slots.size)]
    while True:
        decoded = slots.decode(steps, scored=False)
        for slot, of_slot in enumerate(decoded):
            ids = [score.token_id for score in of_slot.scores]
            tokens[slot] += [id for id in ids if id not in griffin.lm.tokenizer.stop_ids]
        if all(slot.done for slot in decoded):
            return tokens


def expected(griffin, prompt, **options) -> list[int]:
    completion = griffin.lm.complete([prompt], sampling=Sampling(**options))[0]
    return completion.tokens


def test_a_slot_decodes_what_the_model_generates(griffin, slots):
    put(griffin, slots, 1, [65, 66, 67], max_tokens=9)
    assert drain(griffin, slots) == [[], expected(griffin, [65, 66, 67], max_tokens=9), []]


def test_what_a_slot_held_before_is_gone(griffin, slots):
    options = {"max_tokens": 7, "temperature": 1.0, "seed": 3}
    put(griffin, slots, 0, [65] * 30, max_tokens=50, temperature=2.0, seed=1)
    put(griffin, slots, 2, [70] * 9, **options)
    slots.decode(3, scored=False)
    slots.clear(0)
    put(griffin, slots, 0, [80, 81], **options)
    tokens = drain(griffin, slots)
    assert tokens[0] == expected(griffin, [80, 81], **options)
    assert tokens[2] == expected(griffin, [70] * 9, **options)[3:]


def test_a_cleared_slot_generates_nothing(griffin, slots):
    put(griffin, slots, 0, [65, 66], max_tokens=50)
    slots.clear(0)
    assert all(slot.done and not slot.scores for slot in slots.decode(4, scored=False))


def test_log_probabilities_where_they_are_asked_for(griffin, slots):
    put(griffin, slots, 0, [65, 66], max_tokens=2)
    (score,) = slots.decode(1, scored=True)[0].scores
    completion = griffin.lm.complete([[65, 66]], logprobs=5, sampling=Sampling(max_tokens=1))[0]
    assert score.logprob == pytest.approx(completion.logprobs[0], abs=1e-5)
    assert [id for id, _ in score.top] == [id for id, _ in completion.top_logprobs[0]]
    (score,) = slots.decode(1, scored=False)[0].scores
    assert (score.logprob, score.top) == (None, ())


def test_changed_logits_are_of_one_slot_and_gone_with_it(griffin, slots):
    options = {"max_tokens": 9, "seed": 3}
    penalties = {"repetition_penalty": 5.0, "frequency_penalty": 1.0, "logit_bias": {70: 3.0}}
    prompt = [65, 66, 67]
    put(griffin, slots, 0, prompt, **options, **penalties)
    put(griffin, slots, 1, prompt, **options)
    tokens = drain(griffin, slots)
    assert tokens[0] == expected(griffin, prompt, **options, **penalties)
    assert tokens[1] == expected(griffin, prompt, **options) != tokens[0]
    slots.clear(0)
    put(griffin, slots, 0, prompt, **options)
    put(griffin, slots, 1, prompt, **options, presence_penalty=2.0)
    tokens = drain(griffin, slots)
    assert tokens[0] == expected(griffin, prompt, **options)
    assert tokens[1] == expected(griffin, prompt, **options, presence_penalty=2.0)
