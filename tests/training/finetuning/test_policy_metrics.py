# SPDX-License-Identifier: Apache-2.0
"""The paper's numbers on values that are known."""

import jax
import jax.numpy as jnp
import numpy as np

from eval.diagnostics.representation import features_of, ranks
from tests.drawn import normal
from training.finetuning.policy import Judged
from training.finetuning.policy_metrics import representation, trust_region
from training.finetuning.rollout import Rollout


def test_ratios_on_either_side_of_the_clip():
    ratio = jnp.array([[1.0, 1.5, 1.3, 99.0], [0.5, 0.7, 1.1, 0.01]])
    real = jnp.array([[True, True, True, False], [True, True, True, False]])
    got = trust_region(jnp.log(ratio), real, 0.2)
    assert np.isclose(got["ratio_above"], 1.4)
    assert np.isclose(got["ratio_below"], 0.6)
    assert np.isclose(got["excess_ratio"], 1.4 / 0.6)
    assert np.isclose(got["clipped"], 4 / 6)
    r = np.array([1.0, 1.5, 1.3, 0.5, 0.7, 1.1])
    assert np.isclose(got["kl"], (r - 1 - np.log(r)).mean())
    still = trust_region(jnp.zeros((2, 4)), real, 0.2)
    assert np.isnan(still["excess_ratio"])
    assert still["clipped"] == 0


def test_ranks_of_the_tokens_of_answers_alone():
    features = normal(0, (6, 4, 3))
    lengths = jnp.array([4, 2, 1, 4, 3, 2], jnp.int32)
    real = np.arange(4)[None] < np.asarray(lengths)[:, None]
    index = jnp.arange(6, dtype=jnp.int32)
    rollout = Rollout(index, index, lengths, jnp.zeros((6, 4)), jnp.zeros(6))

    def judge(trained, frozen, rollout):
        part = features[rollout.tokens_BT]
        nothing = jnp.zeros(part.shape[:2])
        return Judged(nothing, nothing, part, nothing, jnp.linalg.norm(part, axis=-1))

    got = jax.jit(lambda: representation(judge, {}, (), rollout, size=2))()  # type: ignore[arg-type]
    want = ranks(features_of(jnp.asarray(np.asarray(features)[real])))
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
    norms = np.linalg.norm(np.asarray(features)[real], axis=-1)
    np.testing.assert_allclose(got["pre_activation_norm"], norms.mean(), rtol=1e-5)
    few = rollout._replace(answer_B=jnp.array([1, 1, 0, 0, 0, 0], jnp.int32))
    got = jax.jit(lambda: representation(judge, {}, (), few, size=2))()  # type: ignore[arg-type]
    assert np.isnan(got["pca_rank"])
