# SPDX-License-Identifier: Apache-2.0
"""The state contract over a mesh (its point 4)."""

import functools
import itertools

import jax
import numpy as np
import pytest

from recurrentgemma.config import GriffinConfig
from recurrentgemma.sharded import ShardedGriffin
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.recurrentgemma.models import call

CONFIG = GriffinConfig(
    vocab_size=32,
    width=16,
    mlp_width=24,
    num_layers=3,
    lru_width=32,
    num_gate_blocks=4,
    num_heads=4,
    head_dim=8,
    attention_window=9,
    pattern=("recurrent", "local_attention"),
)


MESHES = {
    "sequence": MeshConfig(data=1, sequence=8),
    "tensor-fsdp": MeshConfig(data=1, fsdp=2, tensor=4),
    "mixed": MeshConfig(data=2, sequence=2, tensor=2),
}


@pytest.fixture(scope="module")
def model():
    return untrained(CONFIG)


def chunks(kind: str):
    """(tokens, positions, lengths) of three calls: the second is one token a device of eight."""
    rng = np.random.default_rng(0)
    for first, last in itertools.pairwise((0, 16, 24, 48)):
        tokens = rng.integers(0, CONFIG.vocab_size, (4, last - first), np.int32)
        if kind == "padded":  # whole, in part, not at all; the cut lies inside a part
            lengths = np.minimum([last - first, 5, 0, 17], last - first)
            yield tokens, None, lengths
        else:  # documents begin on, before and after cuts; one row goes on
            starts = np.asarray([[16, 24, 30], [2, 17, 29], [7, 23, 47], [99, 99, 99]])
            t = np.arange(first, last)
            passed = np.where(starts[:, :, None] <= t, starts[:, :, None], 0).max(1)
            yield tokens, (t - passed).astype(np.int32), None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mixed", "padded"),
        pytest.param("sequence", "packed", marks=pytest.mark.slow),
        ("tensor-fsdp", "packed"),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (("mixed", "packed"), ("sequence", "padded"), ("tensor-fsdp", "padded"))
        ),
    ],
)
def test_logits_and_state_are_those_of_one_device(model, name, kind):
    sharded = ShardedGriffin(model, make_mesh(MESHES[name]))
    want_state = got_state = None
    for tokens, positions, lengths in chunks(kind):
        where = {"positions": positions, "lengths": lengths}
        want, want_state = call(model, tokens, want_state, **where)
        got, got_state = sharded(tokens, got_state, **where)
        real = np.ones(tokens.shape, bool)
        if lengths is not None:
            real = np.arange(tokens.shape[1])[None] < lengths[:, None]
        np.testing.assert_allclose(np.asarray(got)[real], np.asarray(want)[real], atol=2e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(np.asarray(a), b, atol=2e-5),
            got_state,
            want_state,
        )


def test_a_state_moves_between_meshes_and_one_device(model):
    """What one device has read, eight go on from, and back."""
    sharded = ShardedGriffin(model, make_mesh(MESHES["mixed"]))
    one_device = functools.partial(call, model)
    calls = [tokens for tokens, _, _ in chunks("packed")]
    state = want_state = None
    for tokens, run in zip(calls, (one_device, sharded, one_device), strict=True):
        want, want_state = call(model, tokens, want_state)
        got, state = run(tokens, jax.tree.map(np.asarray, state))
        np.testing.assert_allclose(np.asarray(got), want, atol=2e-5)


def test_a_call_that_the_mesh_does_not_divide(model):
    sharded = ShardedGriffin(model, make_mesh(MESHES["mixed"]))
    with pytest.raises(ValueError, match="a batch of 3 rows does not divide"):
        sharded(np.zeros((3, 8), np.int32))
    with pytest.raises(ValueError, match=r"tokens\[0, 0\]=32 is outside the vocabulary"):
        sharded(np.full((2, 8), 32, np.int32))
