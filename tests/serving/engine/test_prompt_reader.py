"""A prompt is read chunk by chunk, from any state, with the scores of its tokens if asked for."""

import jax
import numpy as np
import pytest

from serving.engine.prompt_reader import PromptReader
from tests.recurrentgemma.models import call

TOKENS = np.random.default_rng(0).integers(0, 256, 100).astype(np.int32)


def read(engine, tokens_T, state=None, *, scored=False) -> PromptReader:
    programs = engine._programs
    reader = PromptReader(programs, tokens_T, state=state, scored=scored)
    while not reader.finished:
        left = reader.tokens_left
        reader.advance()
        assert reader.tokens_left < left
    return reader


def logits(engine, state) -> np.ndarray:
    """What the model says after `state` and token 65."""
    return np.asarray(call(engine.lm.model, np.array([[65]]), state)[0])


@pytest.mark.parametrize("scored", [False, True])
def test_reading_on_from_a_state_is_reading_at_once(griffin, scored):
    whole = read(griffin, TOKENS, scored=scored)
    first = read(griffin, TOKENS[:40], scored=scored)  # all but token 39 is read
    second = read(griffin, TOKENS[39:], first.state, scored=scored)
    np.testing.assert_allclose(
        logits(griffin, second.state), logits(griffin, whole.state), atol=2e-5
    )
    if scored:
        scores = [*first.scores, *second.scores[1:]]
        assert [score.token_id for score in scores] == TOKENS.tolist()
        for score, expected in zip(scores[1:], whole.scores[1:], strict=True):
            assert score.logprob == pytest.approx(expected.logprob, abs=2e-5)


def test_a_state_that_has_seen_something_counts(griffin):
    first = read(griffin, TOKENS[:40])
    second = read(griffin, TOKENS[39:], first.state)
    alone = read(griffin, TOKENS[39:])
    assert np.abs(logits(griffin, second.state) - logits(griffin, alone.state)).max() > 1e-3


def test_one_token_is_nothing_to_read(griffin):
    reader = PromptReader(griffin._programs, TOKENS[:1], scored=True)
    assert reader.finished
    assert [score.logprob for score in reader.scores] == [None]
    jax.tree.map(np.testing.assert_array_equal, reader.state, griffin._programs.fresh())
