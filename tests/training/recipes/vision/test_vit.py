# SPDX-License-Identifier: Apache-2.0
"""The vision transformer: patches are patches, and widths must divide."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.vision.network import Network
from training.recipes.vision.vit import ViTConfig


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ViTConfig(patch=5), r"patch=5: expected a divisor of the image's sides, \(8, 8\)"),
        (ViTConfig(width=10, heads=4), "width=10: expected a multiple of heads=4"),
        (ViTConfig(depth=2, mixing=3), "mixing=3: expected 0 to 2, the blocks"),
    ],
)
def test_what_does_not_divide_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        Network(config, image_shape=(8, 8, 1), outputs=2)


def test_patches_may_change_places_with_their_positions():
    config = ViTConfig(width=8, depth=1, heads=2, mlp_widths=(12,))
    network = Network(config, image_shape=(8, 8, 1), outputs=2)
    params, stats = network.init(jax.random.key(0))
    assert params["block_0"]["mlp"]["linear"]["kernel"].shape == (8, 12)
    x = np.asarray(normal(1, (3, 8, 8, 1)))
    left_right = np.concatenate([x[:, :, 4:], x[:, :, :4]], axis=2)
    swapped = {**params, "positions_SD": params["positions_SD"][np.array([1, 0, 3, 2])]}
    apply = jax.jit(network.apply)
    expected = apply(params, stats, x).outputs_BO
    np.testing.assert_allclose(apply(swapped, stats, left_right).outputs_BO, expected, atol=1e-5)
    assert np.abs(apply(params, stats, left_right).outputs_BO - expected).max() > 1e-3


def test_patches_that_do_not_mix_are_read_alone():
    x = np.asarray(normal(1, (2, 8, 8, 1)))
    other = x.copy()
    other[:, :, 4:] += 1.0  # the patches on the right: 1 and 3
    for mixing, changed in ((0, [False, True, False, True]), (1, [True] * 4)):
        config = ViTConfig(width=8, depth=2, heads=2, mixing=mixing)
        vit: Any = config.module((8, 8, 1), 2, rngs=nnx.Rngs(0))
        assert vit.block_0.attention is None
        assert (vit.block_1.attention is None) == (mixing == 0)
        x_BSD, other_BSD = map(jax.jit(lambda images, vit=vit: vit.patches(images)[0]), (x, other))
        differ_BS = np.abs(np.asarray(x_BSD - other_BSD)).max(-1) > 1e-6
        assert differ_BS.tolist() == [changed] * 2


def test_an_image_of_another_size_is_refused():
    vit = ViTConfig(width=8, depth=1, heads=2).module((8, 8, 1), 2, rngs=nnx.Rngs(0))
    message = "images of 12 x 8 have 3 x 2 patches of 4 x 4, and the network has positions for 4"
    with pytest.raises(UserError, match=message):
        vit(jnp.zeros((1, 12, 8, 1)))
