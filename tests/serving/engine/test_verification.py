# SPDX-License-Identifier: Apache-2.0
"""A chunk draws what single tokens draw, and keeps the state only where all guesses stand."""

import jax
import numpy as np

from recurrentgemma.adapter_bank import NONE
from recurrentgemma.generation.draw import sampling_arrays
from recurrentgemma.generation.sampling import Sampling
from serving.engine.verification import Chunk, Verifier

WIDTH = 8


def test_guesses_that_stand_and_that_fall(griffin):
    lm, programs = griffin.lm, griffin._programs
    sampling = Sampling(max_tokens=6, temperature=1.0, seed=3, ignore_eos=True)
    right = lm.complete([[65]], sampling=sampling, logprobs=0)[0]
    wrong = [*right.tokens[:2], (right.tokens[2] + 1) % 256]
    state = programs.fresh(3)
    before = jax.device_get(state)
    chunk = Chunk(
        np.zeros((3, WIDTH), np.int32),
        np.array([6, 4, 0], np.int32),
        np.array([1, 1, 0], np.int32),
        np.zeros(3, np.int32),
    )
    chunk.tokens_BW[0, :6] = [65, *right.tokens[:5]]
    chunk.tokens_BW[1, :4] = [65, *wrong]
    after, drawn = Verifier(programs, width=WIDTH)(
        state,
        chunk,
        sampling_arrays([sampling] * 3),
        place_B=np.full(3, NONE, np.int32),
        scored=True,
    )
    drawn, after = jax.device_get((drawn, after))
    assert drawn.accepted_B.tolist() == [5, 2, 0]
    assert drawn.tokens_BW[0, :6].tolist() == right.tokens
    assert drawn.tokens_BW[1, :3].tolist() == right.tokens[:3]
    np.testing.assert_allclose(drawn.logp_BW[0, :6], right.logprobs, atol=1e-4)
    assert after.position_B.tolist() == [6, 0, 0]
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(new[1:], old[1:])
