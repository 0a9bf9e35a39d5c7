"""What the engine runs on the device: scores of a prompt, and where a state is put."""

import jax
import numpy as np
import pytest

from recurrentgemma.state import take_slot
from serving.engine.programs import MAX_TOP, SCORED_AT_ONCE, SCORED_CHUNKS

TOKENS = np.random.default_rng(1).integers(0, 256, SCORED_CHUNKS[0] + 1)


@pytest.fixture
def programs(griffin):
    return griffin._programs


def test_scores_are_the_models(griffin, programs):
    walk = programs.read(TOKENS, scored=True)
    _, scores = walk.advance()
    assert walk.finished
    logp_1T, top_logp_1TN, top_tokens_1TN = jax.device_get(scores)
    np.testing.assert_allclose(logp_1T[0], griffin.lm.score(TOKENS.tolist()), atol=1e-5)
    assert top_logp_1TN.shape == top_tokens_1TN.shape == (1, SCORED_CHUNKS[0], MAX_TOP)
    assert (top_logp_1TN[0, :, 0] >= logp_1T[0]).all()
    state = programs.read(TOKENS).read_all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), walk.state, state)


def test_larger_chunks_are_scored_in_whole_blocks():
    assert all(size % min(SCORED_AT_ONCE, size) == 0 for size in SCORED_CHUNKS)


def test_a_state_goes_into_its_slot_alone(griffin, programs):
    one = programs.read(TOKENS).read_all()
    before = jax.device_get(one)
    slots = programs.insert(programs.fresh(griffin.slots), 1, one)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(take_slot(slots, 1)), before)
    for other in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, take_slot(slots, other), programs.fresh())
