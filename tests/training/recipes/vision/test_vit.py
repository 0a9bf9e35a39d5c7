# SPDX-License-Identifier: Apache-2.0
"""The vision transformer: patches are patches, and widths must divide."""

import jax
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.vision.network import Network
from training.recipes.vision.vit import ViTConfig


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ViTConfig(patch=5), r"patch=5: expected a divisor of the image's sides, \(8, 8\)"),
        (ViTConfig(width=10, heads=4), "width=10: expected a multiple of heads=4"),
    ],
)
def test_what_does_not_divide_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        Network(config, image_shape=(8, 8, 1), outputs=2)


@pytest.mark.usefixtures("compiled_quickly")
def test_patches_may_change_places_with_their_positions():
    config = ViTConfig(width=8, depth=1, heads=2, mlp_widths=(12,))
    network = Network(config, image_shape=(8, 8, 1), outputs=2)
    params, stats = network.init(jax.random.key(0))
    assert params["block_0"]["mlp"]["linear"]["kernel"].shape == (8, 12)
    x = np.asarray(jax.random.normal(jax.random.key(1), (3, 8, 8, 1)))
    left_right = np.concatenate([x[:, :, 4:], x[:, :, :4]], axis=2)
    swapped = {**params, "positions_SD": params["positions_SD"][np.array([1, 0, 3, 2])]}
    apply = jax.jit(network.apply)
    expected = apply(params, stats, x).outputs_BO
    np.testing.assert_allclose(apply(swapped, stats, left_right).outputs_BO, expected, atol=1e-5)
    assert np.abs(apply(params, stats, left_right).outputs_BO - expected).max() > 1e-3
