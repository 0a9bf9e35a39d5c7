# SPDX-License-Identifier: Apache-2.0
"""The compiler's count is of one device, and grows where an objective compares all pairs."""

import pytest

from tests.training.recipes.sparc.small_pairs import PATCHES, ROWS, TOKENS, WIDTH, towers
from training.recipes.sparc.cost import abstract_batch, flops, seconds, shallower
from training.recipes.sparc.objectives import objectives
from training.recipes.sparc.text import TransformerConfig
from training.recipes.sparc.towers import paper


def test_flops_of_one_of_eight_devices():
    every = objectives(at_once=ROWS)
    counts = {
        name: flops(towers(), every[name], rows=ROWS, devices=8)
        for name in ("clip", "sparc", "filip")
    }
    # A device has one row: its products, and their gradients.
    local = 6 * TOKENS * (2 * PATCHES + TOKENS) * WIDTH
    assert local < counts["sparc"] - counts["clip"] < 4 * local
    # Each way, every pair's similarities, and their gradient for either side.
    pairs = 2 * 6 * ROWS * PATCHES * TOKENS * WIDTH
    assert 0.6 * pairs < counts["filip"] - counts["clip"] < 2 * pairs


def test_shapes_are_the_papers():
    config = shallower(paper("B/32"), 3)
    assert isinstance(config.text, TransformerConfig)
    assert (config.image.depth, config.text.depth) == (3, 3)
    assert abstract_batch(config, 7).ids_BL.shape == (7, 55)


@pytest.mark.slow
def test_steps_take_turns():
    times = seconds(("clip", "sparc"), rows=4, rounds=3)
    assert {name: times[name].shape for name in times} == {"clip": (3,), "sparc": (3,)}
