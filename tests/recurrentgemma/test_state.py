# SPDX-License-Identifier: Apache-2.0
"""States: slots taken and put back, and those of another model."""

import dataclasses

import jax
import numpy as np
import pytest

import recurrentgemma as rg
from recurrentgemma.state import check_state
from tests.recurrentgemma.models import GRIFFIN


def test_slots_that_are_none():
    state = rg.init_state(GRIFFIN, 3)
    for slot in (3, -1):
        with pytest.raises(
            ValueError, match=rf"slot {slot} is out of range: the state has slots 0 to 2"
        ):
            rg.take_slot(state, slot)
        with pytest.raises(ValueError, match=rf"slot {slot} is out of range"):
            rg.insert_slot(state, slot, rg.take_slot(state, 0))
    with pytest.raises(ValueError, match="expected a batch of one of the same model"):
        rg.insert_slot(state, 0, state)
    with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
        rg.init_state(GRIFFIN, 0)


def test_a_slot_is_taken_and_put_back_alone():
    empty = rg.init_state(GRIFFIN, 3)
    leaves, structure = jax.tree.flatten(empty)
    state = structure.unflatten(
        [
            (np.arange(x.size).reshape(x.shape) + 100 * i).astype(x.dtype)
            for i, x in enumerate(leaves)
        ]
    )
    one = rg.take_slot(state, 1)
    other = rg.insert_slot(empty, 2, one)
    for whole, taken, filled in zip(*map(jax.tree.leaves, (state, one, other)), strict=True):
        np.testing.assert_array_equal(taken, whole[1:2])
        np.testing.assert_array_equal(filled[2], whole[1])
        assert not np.any(filled[:2])


def test_a_state_of_another_model_is_named_by_its_layer():
    check_state(rg.init_state(GRIFFIN, 3), GRIFFIN)
    shallow = dataclasses.replace(GRIFFIN, num_layers=2)
    with pytest.raises(ValueError, match="it has 2 layers and this model 5"):
        check_state(rg.init_state(shallow, 1), GRIFFIN)
    wider = dataclasses.replace(GRIFFIN, attention_window=GRIFFIN.attention_window + 1)
    with pytest.raises(
        ValueError,
        match=r"layer 2 \(local_attention\) holds arrays of shape \(1, 9, 16\) and \(1, 9, 16\), "
        r"and this model's \(1, 8, 16\)",
    ):
        check_state(rg.init_state(wider, 1), GRIFFIN)
