# SPDX-License-Identifier: Apache-2.0
"""What a policy makes of rollouts is what the model says, whatever stands in the other rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.head import capped_logits
from tests.drawn import normal
from tests.training.finetuning.small_policy import (
    TOKENIZER,
    drawn,
    judge,
    split_model,
    trained,
)
from training.configs import TrainConfig
from training.finetuning import policy
from training.finetuning.policy import log_probs_and_entropies, real_tokens


@pytest.fixture(scope="module")
def judged(small: TrainConfig):
    graphdef, params = split_model(small)
    head = {"weight_D": jnp.arange(small.model.width, dtype=jnp.float32), "bias": jnp.float32(2)}
    run = jax.jit(judge(graphdef))
    rollout = drawn()
    return nnx.merge(graphdef, params), rollout, run({"policy": params, "value": head}, (), rollout)


def test_what_the_model_says_of_each_answer_alone(judged):
    model, rollout, got = judged
    hidden = nnx.jit(lambda model, tokens_BT: model.hidden(tokens_BT)[0])
    for row in range(4):
        start, count = int(rollout.prompt_B[row]), int(rollout.answer_B[row])
        ids = rollout.tokens_BT[row, : start + count]
        x_TD = hidden(model, ids[None])[0]
        logits = np.asarray(model.unembed(x_TD), np.float64)[:, : TOKENIZER.vocab_size]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        before = range(start - 1, start + count - 1)
        want = [log_p[place, ids[place + 1]] for place in before]
        np.testing.assert_allclose(got.log_prob_BA[row, :count], want, atol=2e-5)
        entropies = -(np.exp(log_p) * log_p).sum(-1)[list(before)]
        np.testing.assert_allclose(got.entropy_BA[row, :count], entropies, atol=2e-4)
        np.testing.assert_allclose(
            got.features_BAD[row, :count], x_TD[jnp.array(before)], atol=2e-5
        )
        width = x_TD.shape[1]
        value = np.asarray(x_TD)[list(before)] @ np.arange(width) + 2
        np.testing.assert_allclose(got.value_BA[row, :count], value, atol=5e-3)
    real = np.asarray(real_tokens(rollout))
    assert real.sum(-1).tolist() == [2, 5, 1, 3]
    assert real[:, 0].all()


def test_the_norm_is_that_of_what_the_final_norm_reads(judged):
    model, rollout, got = judged
    scale = np.asarray(model.final_norm.scale[...], np.float64)
    features = np.asarray(got.features_BAD, np.float64) / (1 + scale)
    # Of unit root mean square whatever the norm was: it is not that of the features.
    root = np.sqrt(np.square(features[0, :2]).mean(-1))
    np.testing.assert_allclose(root, 1, atol=1e-2)
    norms = np.asarray(got.norm_BA)[np.asarray(real_tokens(rollout))]
    assert norms.std() > 1e-3
    assert not np.allclose(norms, np.sqrt(features.shape[-1]), rtol=0.05)


def test_the_head_in_chunks_is_the_whole_head(monkeypatch: pytest.MonkeyPatch):
    x_MD, table_VD = normal(0, (7, 8)), normal(1, (11, 8))
    targets_M = jnp.arange(7, dtype=jnp.int32)

    def both(x_MD, table_VD):
        log_prob_M, entropy_M = log_probs_and_entropies(x_MD, table_VD, targets_M, soft_cap=5.0)
        return jnp.sum(log_prob_M * jnp.arange(7.0)) + jnp.sum(jnp.square(entropy_M))

    def plain(x_MD, table_VD):
        log_p_MV = jax.nn.log_softmax(capped_logits(x_MD, table_VD, 5.0))
        entropy_M = -jnp.sum(jnp.exp(log_p_MV) * log_p_MV, -1)
        log_prob_M = log_p_MV[jnp.arange(7), targets_M]
        return jnp.sum(log_prob_M * jnp.arange(7.0)) + jnp.sum(jnp.square(entropy_M))

    want = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(x_MD, table_VD)
    for least in (100, 3):
        monkeypatch.setattr(policy, "CHUNK_ELEMENTS", {"cpu": 1})
        monkeypatch.setattr(policy, "MIN_CHUNK_TOKENS", {"cpu": least})
        got = jax.jit(jax.value_and_grad(lambda *a: both(*a), argnums=(0, 1)))(x_MD, table_VD)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, want)


def test_without_a_value_head_values_are_zero(small: TrainConfig):
    graphdef, params = split_model(small)
    shapes = jax.eval_shape(lambda: judge(graphdef)(trained(params, small), (), drawn()))
    assert shapes.value_BA.shape == (4, 5)
