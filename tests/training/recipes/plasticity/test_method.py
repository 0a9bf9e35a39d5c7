# SPDX-License-Identifier: Apache-2.0
"""Each intervention's own invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.drawn import normal
from training.recipes.plasticity import method
from training.recipes.vision.mlp import CNNConfig, MLPConfig, readers
from training.recipes.vision.network import Network

SHAPE = (6, 6, 1)
CNN = CNNConfig(channels=(4,), widths=(5,))
X_BHWC = normal(5, (7, *SHAPE))


def network_and_params(config=CNN):
    network = Network(config, image_shape=SHAPE, outputs=3)
    return network, network.init(jax.random.key(0))[0], network.init(jax.random.key(1))[0]


def test_adams_epsilons_stand_in_their_places():
    """One step of m = v = g: bias-corrected moments are g and g^2."""
    g = jnp.asarray([1e-3, 1.0])
    for eps, eps_root in ((1e-3, 0.0), (0.0, 1e-3), (1e-8, 0.0)):
        tx = method.adam(0.1, b2=0.9, eps=eps, eps_root=eps_root)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = tx.update(g, tx.init(g), g)
        expected = -0.1 * g / (jnp.sqrt(g**2 + eps_root) + eps)
        np.testing.assert_allclose(np.asarray(updates), expected, rtol=1e-4)


def test_decay_is_decoupled_and_l2_is_not():
    w = jnp.asarray([2.0, -4.0])
    tx = method.adam(0.1, decay=0.5)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(jnp.zeros(2), tx.init(w), w)
    np.testing.assert_allclose(np.asarray(updates), -0.1 * 0.5 * w, rtol=1e-6)
    assert float(method.l2({"a": w, "b": jnp.ones(3)})) == 23.0


def test_shrink_and_perturb_mixes_with_a_fresh_network():
    _, params, fresh = network_and_params()
    same = method.shrink_and_perturb(params, fresh, shrink=1.0, perturb=0.0)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    mixed = method.shrink_and_perturb(params, fresh, shrink=0.5, perturb=2.0)
    np.testing.assert_allclose(
        mixed["head"]["kernel"],
        0.5 * params["head"]["kernel"] + 2 * fresh["head"]["kernel"],
        rtol=1e-6,
    )


def test_a_reset_of_the_head_leaves_the_features():
    network, params, fresh = network_and_params()
    after = method.reset_head(params, fresh)
    before, now = (network.apply(p, {}, X_BHWC) for p in (params, after))
    np.testing.assert_array_equal(before.features_BF, now.features_BF)
    np.testing.assert_array_equal(after["head"]["kernel"], fresh["head"]["kernel"])


@pytest.mark.parametrize("config", [CNN, MLPConfig(widths=(4,))], ids=lambda config: config.kind)
def test_spectral_norm_makes_the_largest_singular_value_one(config):
    _, params, _ = network_and_params(config)
    part = "conv" if config is CNN else "linear"

    def sigma(params) -> float:
        kernel = np.asarray(params["hidden_0"][part]["kernel"])
        return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]

    for _ in range(4):  # five power iterations are not exact; four times five nearly are
        params = method.spectrally_normalised(params)
    assert sigma(params) == pytest.approx(1, abs=0.05)
    scaled = jax.tree.map(lambda w: 3 * w, params)
    assert sigma(method.spectrally_normalised(scaled)) == pytest.approx(1, abs=0.05)


def test_the_feature_penalty_is_the_mean_square_norm():
    assert float(method.feature_penalty(jnp.asarray([[3.0, 4.0], [0.0, 1.0]]))) == 13.0


def test_recycling_dead_units_leaves_the_outputs_and_brings_them_back():
    network, params, fresh = network_and_params()
    for layer, part in (("hidden_0", "conv"), ("hidden_1", "linear")):
        bias = params[layer][part]["bias"].at[1].set(-100.0)  # unit 1 is dead
        params = {**params, layer: {part: {**params[layer][part], "bias": bias}}}
    tx = method.adam(1e-3)
    opt_state = jax.tree.map(lambda leaf: leaf + 1, tx.init(params))
    dormant = {"hidden_0": jnp.arange(4) == 1, "hidden_1": jnp.arange(5) == 1}
    after, state = method.recycled(params, opt_state, fresh, dormant, readers(CNN, SHAPE), tx)
    before, now = (network.apply(p, {}, X_BHWC) for p in (params, after))
    np.testing.assert_allclose(now.outputs_BO, before.outputs_BO, atol=1e-6)
    assert float(before.hidden["hidden_0"].a[..., 1].max()) == 0
    assert float(now.hidden["hidden_0"].a[..., 1].max()) > 0
    conv = after["hidden_0"]["conv"]["kernel"]
    np.testing.assert_array_equal(conv[..., 1], fresh["hidden_0"]["conv"]["kernel"][..., 1])
    np.testing.assert_array_equal(conv[..., 0], params["hidden_0"]["conv"]["kernel"][..., 0])
    mu = optax.tree.get(state, "mu")
    assert float(jnp.abs(mu["head"]["kernel"][1]).max()) == 0
    assert float(mu["head"]["kernel"][0].min()) == 1
    assert float(jnp.abs(mu["hidden_1"]["linear"]["kernel"][1::4]).max()) == 0
    none = {name: jnp.zeros_like(mask) for name, mask in dormant.items()}
    same, _ = method.recycled(params, opt_state, fresh, none, readers(CNN, SHAPE), tx)
    jax.tree.map(np.testing.assert_array_equal, same, params)
