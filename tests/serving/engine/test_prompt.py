"""A prompt and the sequences that begin with it."""

import numpy as np

from recurrentgemma.generation.sampling import Sampling
from serving.engine.prompt import Prompt
from serving.engine.prompt_reader import PromptReader
from serving.engine.request import GenerationRequest
from serving.engine.sequence import LiveSequence

TOKENS = np.arange(40, dtype=np.int32)


def sequence(scored: bool) -> LiveSequence:
    request = GenerationRequest(prompt=TOKENS, sampling=Sampling(), prompt_logprobs=scored)
    return LiveSequence(0, request, None)


def test_it_is_scored_for_whoever_asks():
    assert not Prompt(TOKENS, [sequence(False)]).scored
    assert Prompt(TOKENS, [sequence(False), sequence(True)]).scored
    assert not Prompt(TOKENS, []).scored


def test_whose_turn_it_is_goes_by_its_reader(griffin):
    prompt = Prompt(TOKENS, [sequence(True)])
    prompt.reader = PromptReader(TOKENS, griffin._programs.empty, scored=prompt.scored)
    assert (prompt.tokens_left, prompt.program) == (39, (128, True))
