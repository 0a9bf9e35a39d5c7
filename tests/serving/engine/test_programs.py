"""What the engine runs on the device: scores of a prompt, and where a state is put."""

import jax
import numpy as np
import pytest

from recurrentgemma.state import take_slot
from serving.engine.chunks import SIZES
from serving.engine.programs import MAX_TOP, SCORED_AT_ONCE, RowChunk

TOKENS = np.random.default_rng(1).integers(0, 256, SIZES[0] + 1).astype(np.int32)


@pytest.fixture
def programs(griffin):
    return griffin._programs


def test_scores_are_the_models(griffin, programs):
    chunk = RowChunk(TOKENS[:-1], TOKENS[1:], programs.empty)
    (state,), scores = programs.read([chunk], size=SIZES[0])
    logp_RT, top_logp_RTN, top_tokens_RTN = jax.device_get(scores)
    np.testing.assert_allclose(logp_RT[0], griffin.lm.score(TOKENS.tolist()), atol=1e-5)
    assert top_logp_RTN.shape == top_tokens_RTN.shape == (1, SIZES[0], MAX_TOP)
    assert (top_logp_RTN[0, :, 0] >= logp_RT[0]).all()
    (unscored,), none = programs.read([chunk._replace(targets_T=None)], size=SIZES[0])
    assert none is None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, unscored)


def test_larger_chunks_are_scored_in_whole_blocks():
    assert all(size % min(SCORED_AT_ONCE, size) == 0 for size in SIZES)


def test_a_state_goes_into_its_slot_alone(griffin, programs):
    (one,), _ = programs.read([RowChunk(TOKENS, None, programs.empty)], size=SIZES[1])
    before = jax.device_get(one)
    slots = programs.insert(programs.fresh(griffin.slots), 1, one)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(take_slot(slots, 1)), before)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), before)  # it was not donated
    for other in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, take_slot(slots, other), programs.fresh())
