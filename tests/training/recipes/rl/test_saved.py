# SPDX-License-Identifier: Apache-2.0
"""What is kept of a run comes back as it was; another run's, or a damaged one, does not."""

import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.saved import Saved

STATE = {"a": jnp.arange(3, dtype=jnp.int32), "b": (jnp.float32(0.1),)}
NEW = {"a": jnp.zeros(3, jnp.int32), "b": (jnp.float32(0),)}


def test_a_round(tmp_path):
    saved = Saved(tmp_path / "new", {"seed": 1}, every=0)
    assert saved.taken(NEW) == (NEW, {})
    saved.keep(STATE, {"records": [1.5]})
    state, values = Saved(tmp_path / "new", {"seed": 1}).taken(NEW)
    assert values == {"records": [1.5]}
    np.testing.assert_array_equal(state["a"], STATE["a"])
    assert state["b"][0].dtype == jnp.float32
    assert Saved(tmp_path / "new", {"seed": 2}).taken(NEW)[1] == {}
    with pytest.raises(UserError, match="of another run"):
        saved.taken({"a": jnp.zeros(4), "b": (jnp.float32(0),)})
    saved.path.write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged"):
        saved.taken(NEW)
    saved.remove()
    assert saved.taken(NEW)[1] == {}


def test_not_too_often(tmp_path):
    saved = Saved(tmp_path, 1)
    saved.keep(STATE, {})
    assert not saved.path.exists()
    saved.keep(STATE, {}, at_once=True)
    assert saved.path.exists()
