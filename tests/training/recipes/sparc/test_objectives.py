# SPDX-License-Identifier: Apache-2.0
"""Every objective over eight devices is what it is on one, and so are its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel, sharding
from recurrentgemma.errors import UserError
from recurrentgemma.sharded import on_mesh
from tests.training.recipes.sparc.small_pairs import SCALE, WIDTH, embeddings
from training.recipes.sparc.method import mismatch_gap
from training.recipes.sparc.objectives import OBJECTIVES, objective_of

ALIKE = ("no sparsity", "softmax")  # differ from SPARC in what no device shares
NUMBERED = dict(enumerate((OBJECTIVES[n] for n in OBJECTIVES if n not in ALIKE), start=1))


def losses_of_all(arrays, words_BL, scale, params):
    """A sum in which no two objectives weigh alike, so that one gradient tests them all."""
    patches, tokens, image, text = arrays
    pairs = embeddings()._replace(
        patches_BPD=patches, tokens_BLD=tokens, words_BL=words_BL, image_BD=image, text_BD=text
    )
    scale, params = jax.tree.map(lambda x: parallel.gather(x, None, x.dtype), (scale, params))
    losses = {n: objective(pairs, scale, params)[0] for n, objective in NUMBERED.items()}
    mixed = sum((loss * float(np.sqrt(n)) for n, loss in losses.items()), jnp.zeros(()))
    return mixed, (losses, mismatch_gap(pairs, scale))


def test_over_eight_devices_as_on_one():
    pairs = embeddings()
    arrays = (pairs.patches_BPD, pairs.tokens_BLD, pairs.image_BD, pairs.text_BD)
    params = OBJECTIVES["mgca"].init(jax.random.key(0), WIDTH)
    given = (arrays, pairs.words_BL, jnp.float32(SCALE), params)
    gradients = jax.value_and_grad(losses_of_all, (0, 2, 3), has_aux=True)
    one = jax.jit(gradients)(*given)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    rows, whole = sharding.ROWS, P()
    divided = on_mesh(
        mesh, gradients, (rows, rows, whole, whole), ((whole, whole), (rows, whole, whole))
    )
    eight = jax.jit(divided)(*given)
    for expected, value in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-5)
    losses = np.array(list(one[0][1][0].values()))
    assert np.isfinite(losses).all()
    assert len(np.unique(losses.round(4))) == len(NUMBERED)
    assert all(np.abs(grad).max() > 1e-4 for grad in jax.tree.leaves(one[1]))


def test_weights_and_names():
    objective = objective_of("sparc").weighing(local=5.0)
    assert dict(objective.weights) == {"global": 0.5, "local": 5.0}
    assert dict(OBJECTIVES["sparc"].weights) == {"global": 0.5, "local": 1.0}
    for one in OBJECTIVES.values():
        assert one.terms.keys() == one.weights.keys()
    with pytest.raises(UserError, match="the weight of 'locl': this objective has 'global', 'loc"):
        objective.weighing(locl=1.0)
    with pytest.raises(UserError, match=r"'sprc' is no objective \(did you mean 'sparc'\?\)"):
        objective_of("sprc")
