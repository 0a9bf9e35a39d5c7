# SPDX-License-Identifier: Apache-2.0
"""The two towers in one space: the paths of the text and of the listing, and the paper's sizes."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.small_pairs import (
    PATCHES,
    ROWS,
    SIDE,
    WIDTH,
    batch,
    filled,
    towers,
)
from training.recipes.sparc.towers import VISION, ImageText, PairConfig, paper, small

BATCH = batch()


def run(config: PairConfig) -> tuple[ImageText, dict]:
    model = filled(lambda: ImageText(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)

    @jax.jit
    def outputs(batch):
        model = nnx.merge(graphdef, params)
        embeddings, features = model(batch)
        image = model.image.patches(batch.images_BHWC)[0]
        return embeddings, features, image, model.patch_map(batch.images_BHWC), model.scale()

    names = ("embeddings", "features", "image_BPF", "map_BPD", "scale")
    return model, dict(zip(names, jax.tree.map(np.asarray, outputs(BATCH)), strict=True))


def linear(layer: nnx.Linear, x: np.ndarray) -> np.ndarray:
    kernel, bias = layer.kernel, layer.bias
    assert bias is not None
    return x @ np.asarray(kernel[...]) + np.asarray(bias[...])


def test_paths_of_the_text():
    model, outputs = run(towers())
    pairs, features = outputs["embeddings"], outputs["features"]
    assert pairs.patches_BPD.shape == (ROWS, PATCHES, WIDTH)
    head, adapter = model.image.head, model.text_adapter
    assert model.global_layer is not None
    gelu = jax.jit(jax.nn.gelu)
    np.testing.assert_allclose(outputs["scale"], 1 / 0.07, rtol=1e-6)
    np.testing.assert_allclose(pairs.patches_BPD, linear(head, outputs["image_BPF"]), atol=1e-5)

    first: Any = model.global_layer.linear

    def h_v(x):
        return np.asarray(gelu(linear(first, x)))

    global_BD = linear(head, h_v(outputs["image_BPF"].mean(1)))
    np.testing.assert_allclose(pairs.image_BD, global_BD, atol=1e-5)
    np.testing.assert_allclose(
        outputs["map_BPD"], linear(head, h_v(outputs["image_BPF"])), atol=1e-5
    )
    np.testing.assert_allclose(pairs.tokens_BLD, linear(adapter, features.tokens_BLF), atol=1e-5)
    np.testing.assert_allclose(pairs.text_BD, linear(adapter, features.pooled_BF), atol=1e-5)


def test_paths_of_the_listing():
    model, outputs = run(towers(follow="listing"))
    pairs = outputs["embeddings"]
    assert model.global_layer is None
    np.testing.assert_allclose(pairs.image_BD, pairs.patches_BPD.mean(1), atol=1e-6)
    np.testing.assert_allclose(pairs.text_BD, pairs.tokens_BLD.mean(1), atol=1e-6)
    np.testing.assert_array_equal(outputs["map_BPD"], pairs.patches_BPD)


def test_the_papers_sizes():
    assert {name: paper(name).patches for name in VISION} == {"B/32": 49, "B/16": 196, "L/14": 256}
    config = paper("L/14")
    assert (config.image.depth, config.image.width, config.image.heads) == (24, 1024, 16)
    assert (config.text.length, config.text.vocab_size, config.width) == (55, 32_000, 512)
    assert small(100).grid == (8, 8)
    with pytest.raises(UserError, match="'B/8': the paper's image towers are B/32, B/16, L/14"):
        paper("B/8")
    with pytest.raises(UserError, match="follow='code': expected 'text' or 'listing'"):
        towers(follow="code")


def test_what_does_not_fit_the_towers():
    model = filled(lambda: ImageText(towers(), rngs=nnx.Rngs(0)))
    large: Any = np.zeros((1, 2 * SIDE, SIDE, 3), np.float32)
    message = "images of 8 x 4 have 4 x 2 patches of 2 x 2, and the network has positions for 4"
    with pytest.raises(UserError, match=message):
        model.images(large)
    with pytest.raises(UserError, match="patch=2: expected a divisor of the image's sides"):
        ImageText(dataclasses.replace(towers(), image_size=5), rngs=nnx.Rngs(0))
