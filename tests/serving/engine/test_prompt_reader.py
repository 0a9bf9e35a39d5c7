"""Prompts are read chunk by chunk, alone or together, from any place of the grid."""

import jax
import numpy as np
import pytest

from serving.engine.chunks import GRID
from serving.engine.programs import Programs
from serving.engine.prompt_reader import PromptReader, advance
from tests.recurrentgemma.models import call

TOKENS = np.random.default_rng(0).integers(0, 256, 2 * GRID + 50).astype(np.int32)


def read(programs, *readers) -> None:
    """Together, as long as they are of one program."""
    while unfinished := [reader for reader in readers if not reader.finished]:
        program = unfinished[0].program
        advance(programs, [r for r in unfinished if r.program == program][: programs.rows])


def logits(engine, state) -> np.ndarray:
    """What the model says after `state` and token 65."""
    return np.asarray(call(engine.lm.model, np.array([[65]]), state)[0])


def equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("scored", [False, True])
def test_it_reads_all_but_the_last_token(griffin, scored):
    programs = griffin._programs
    reader = PromptReader(TOKENS, programs.empty, scored=scored)
    read(programs, reader)
    assert (reader.position, reader.tokens_left) == (len(TOKENS) - 1, 0)
    expected = call(griffin.lm.model, TOKENS[None, :-1])[1]
    np.testing.assert_allclose(logits(griffin, reader.state), logits(griffin, expected), atol=2e-5)
    if scored:
        assert [score.token_id for score in reader.scores] == TOKENS.tolist()
        assert reader.scores[0].logprob is None
        np.testing.assert_allclose(
            [score.logprob or 0 for score in reader.scores[1:]],
            griffin.lm.score(TOKENS.tolist()),
            atol=2e-5,
        )


def test_from_a_place_of_the_grid_it_is_the_same_bit_for_bit(griffin):
    programs, kept = griffin._programs, {}
    whole = PromptReader(TOKENS, programs.empty, at_boundary=kept.__setitem__)
    read(programs, whole)
    assert sorted(kept) == [GRID, 2 * GRID]
    for start, state in kept.items():
        before = jax.device_get(state)
        reader = PromptReader(TOKENS, state, start=start)
        read(programs, reader)
        equal(reader.state, whole.state)
        equal(state, before)  # it may be used again
    other = TOKENS.copy()
    other[-4] += 1
    changed = PromptReader(other, programs.empty)
    read(programs, changed)
    assert np.abs(logits(griffin, changed.state) - logits(griffin, whole.state)).max() > 1e-3


def test_alone_and_with_others_it_is_the_same_bit_for_bit(griffin):
    programs = Programs(griffin.lm, vocab_size=griffin.vocab_size, rows=3)
    lengths = (300, 40, 140, 9)
    alone = [PromptReader(TOKENS[:length], programs.empty) for length in lengths]
    for reader in alone:
        read(programs, reader)
    others = [PromptReader(TOKENS[:length], programs.empty) for length in lengths]
    read(programs, *reversed(others))
    for one, other in zip(alone, others, strict=True):
        equal(one.state, other.state)


def test_one_token_is_nothing_to_read(griffin):
    reader = PromptReader(TOKENS[:1], griffin._programs.empty, scored=True)
    assert reader.finished
    assert [score.logprob for score in reader.scores] == [None]
    equal(reader.state, griffin._programs.fresh())
