"""Who is read when, who is ready, and what is read for the cache alone."""

import numpy as np
import pytest

from recurrentgemma.generation.sampling import Sampling
from serving.engine.chunks import GRID
from serving.engine.intake import Intake
from serving.engine.prompt import Prompt
from serving.engine.request import GenerationRequest
from serving.engine.sequence import LiveSequence
from serving.features.prefix_cache import PrefixCache


@pytest.fixture
def intake(griffin) -> Intake:
    """For two slots."""
    return Intake(griffin._programs, 2, PrefixCache(device_bytes=2**20), "m")


def prompt(length: int, *ids: int) -> Prompt:
    tokens_T = np.arange(length, dtype=np.int32) % 200
    request = GenerationRequest(prompt=tokens_T, sampling=Sampling())
    return Prompt(tokens_T, [LiveSequence(id, request, None) for id in ids])


def read(intake: Intake, running: int = 0) -> list[Prompt]:
    """All that can be admitted, in the order in which it is read."""
    done = intake.admit(running)
    while intake.has_to_read:
        done += [*intake.advance(), *intake.admit(running)]
    return done


def test_as_many_are_admitted_as_there_are_slots(intake):
    prompts = [prompt(20 + n, n) for n in range(3)]
    for one in prompts:
        intake.submit(one)
    assert read(intake, running=2) == []
    assert read(intake, running=1) == prompts[:1]
    assert read(intake, running=1) == []  # one slot is taken, and one has somebody ready for it
    intake.ready.popleft()
    assert read(intake) == prompts[1:]
    assert len(intake) == 2


def test_one_token_is_ready_at_once(intake):
    one = prompt(1, 0)
    intake.submit(one)
    assert intake.admit(0) == [one]
    assert not intake.has_to_read


def test_cancelling_where_it_waits_is_read_and_is_ready(intake):
    alone, pair, waiting = prompt(300, 1), prompt(20, 2, 3), prompt(5, 4)
    for one in (alone, pair, waiting):
        intake.submit(one)
    intake.admit(0)
    while pair not in intake.ready:
        intake.advance()
    for id, left in ((2, 3), (3, 2), (1, 1), (4, 0)):
        assert intake.cancel(id)
        assert not intake.cancel(id)
        assert len(intake) == left
    assert not intake.has_to_read


def test_the_end_of_an_answer_is_read_for_the_next_turn(intake):
    first = prompt(GRID - 9, 0)
    intake.submit(first)
    read(intake)
    (sequence,) = first.sequences
    sequence.tokens.extend(range(5))
    intake.read_later(sequence)
    assert not intake.has_to_read  # no chunk of the grid has become full
    sequence.tokens.extend(range(GRID))
    intake.read_later(sequence)
    later = prompt(20, 1)
    intake.submit(later)
    assert read(intake) == [later]  # whoever waits comes first; nobody is told of the other
    turn = Prompt(np.concatenate([first.tokens_T, sequence.tokens, [7] * 9]).astype(np.int32), [])
    turn.sequences = prompt(1, 2).sequences
    intake.submit(turn)
    intake.ready.clear()
    intake.admit(0)
    assert turn.opened.start == turn.sequences[0].cached_tokens == GRID
