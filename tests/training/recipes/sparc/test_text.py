# SPDX-License-Identifier: Apache-2.0
"""Text towers: who sees whom, pooling, padding, and a Griffin that begins with a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import nnx

from checkpoints import store
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.training.recipes.sparc.small_pairs import (
    COUNTS,
    GRIFFIN,
    MASK_BL,
    ROWS,
    TOKENS,
    TRANSFORMER,
    batch,
    filled,
    log_softmax,
)
from training.recipes.sparc.text import (
    GriffinTextConfig,
    TextConfig,
    TransformerConfig,
    griffin_from,
    reversed_order,
)

IDS_BL = batch().ids_BL
ROW = int(np.argmax(COUNTS == 4))  # a caption of four tokens and one of padding
GRIFFIN_TEXT = GriffinTextConfig(griffin=GRIFFIN, length=TOKENS)
BOTH_WAYS = dataclasses.replace(GRIFFIN_TEXT, directions=2, pooling="last")


class Read:
    """A tower's features of the shared captions and of captions in which a token is another."""

    def __init__(self, config: TextConfig):
        self.module = filled(lambda: config.module(rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(self.module)

        @jax.jit
        def features(ids_BL):
            return nnx.merge(graphdef, params)(ids_BL, MASK_BL)

        self.features = jax.tree.map(np.asarray, features(IDS_BL))
        self.changed = []
        for token in range(TOKENS):
            ids_BL = IDS_BL.copy()
            ids_BL[:, token] = (ids_BL[:, token] + 1) % 16
            other = jax.tree.map(np.asarray, features(ids_BL))
            differ = np.abs(other.tokens_BLF - self.features.tokens_BLF)[ROW].max(-1) > 1e-6
            pooled = np.abs(other.pooled_BF - self.features.pooled_BF)[ROW] > 1e-6
            self.changed.append((differ[: COUNTS[ROW]].tolist(), pooled))


@pytest.fixture(scope="module")
def transformer() -> Read:
    return Read(TRANSFORMER)


@pytest.fixture(scope="module")
def both_ways() -> Read:
    return Read(BOTH_WAYS)


def test_a_transformer_sees_all_but_padding(transformer: Read):
    assert transformer.features.tokens_BLF.shape == (ROWS, TOKENS, TRANSFORMER.features)
    assert [differ for differ, _ in transformer.changed] == [[True] * 4] * 4 + [[False] * 4]
    means = [
        row[:count].mean(0)
        for row, count in zip(transformer.features.tokens_BLF, COUNTS, strict=True)
    ]
    np.testing.assert_allclose(transformer.features.pooled_BF, means, atol=1e-5)


def test_each_direction_of_a_griffin_sees_what_it_has_read(both_ways: Read):
    """And padding reaches neither; the last token of each direction is what is pooled."""
    features, width = both_ways.features, GRIFFIN.width
    assert features.tokens_BLF.shape == (ROWS, TOKENS, 2 * width)
    np.testing.assert_array_equal(features.forward_BLD, features.tokens_BLF[..., :width])
    assert [differ for differ, _ in both_ways.changed] == [[True] * 4] * 4 + [[False] * 4]
    last = [row[count - 1] for row, count in zip(features.forward_BLD, COUNTS, strict=True)]
    np.testing.assert_array_equal(features.pooled_BF[:, :width], last)
    np.testing.assert_array_equal(features.pooled_BF[:, width:], features.tokens_BLF[:, 0, width:])


def test_one_griffin_sees_what_is_before(both_ways: Read):
    """The forward half of both ways is a Griffin of one way."""
    config = dataclasses.replace(GRIFFIN_TEXT, pooling="last")
    assert (config.features, BOTH_WAYS.features) == (GRIFFIN.width, 2 * GRIFFIN.width)
    forward = both_ways.features.forward_BLD
    graphdef, params = nnx.split(both_ways.module.griffin)
    ids_BL = IDS_BL.copy()
    ids_BL[:, 2] += 1
    other = jax.jit(lambda ids_BL: nnx.merge(graphdef, params).hidden(ids_BL)[0])(ids_BL)
    differ = np.abs(np.asarray(other) - forward)[ROW].max(-1) > 1e-6
    assert differ.tolist() == [False, False, True, True, True]


def test_turning_round_leaves_padding():
    order_BL: Any = np.asarray(reversed_order(MASK_BL))
    assert order_BL[ROW].tolist() == [3, 2, 1, 0, 4]
    twice = np.take_along_axis(order_BL, order_BL, axis=1)
    assert (twice == np.arange(TOKENS)[None]).all()


def test_the_language_loss_is_that_of_next_tokens(both_ways: Read):
    module, forward_BLD = both_ways.module, both_ways.features.forward_BLD
    loss = jax.jit(lambda: module.language_loss(forward_BLD, IDS_BL, MASK_BL))()
    table_VD = np.asarray(module.griffin.embedder.input_embedding[...], float)
    log_p_BLV = log_softmax(forward_BLD.astype(float) @ table_VD.T)
    nll_BL = -np.take_along_axis(log_p_BLV[:, :-1], np.asarray(IDS_BL)[:, 1:, None], axis=-1)[
        ..., 0
    ]
    np.testing.assert_allclose(loss, nll_BL[MASK_BL[:, 1:]].mean(), rtol=1e-4)


def test_a_tower_begins_with_a_checkpoint(both_ways: Read, tmp_path: Path):
    """Both directions do; the config is the checkpoint's, in float32."""
    stored = flat_params(both_ways.module.griffin)
    stored_config = dataclasses.replace(GRIFFIN, dtype="bfloat16")
    store.write(tmp_path / "mine", dict(stored), stored_config)
    config = griffin_from(str(tmp_path / "mine"), length=TOKENS, directions=2)
    assert config.griffin == GRIFFIN
    module = config.module(rngs=nnx.Rngs(7))
    for griffin in (module.griffin, module.backward):
        assert griffin is not None
        for name, value in flat_params(griffin).items():
            np.testing.assert_array_equal(value, stored[name])


def test_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such file or directory"):
        griffin_from(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransformerConfig(width=10, heads=4), "width=10: expected a multiple of heads=4"),
        (lambda: TransformerConfig(length=0), "length=0: expected at least 1 token"),
        (
            lambda: TransformerConfig(pooling=cast(Any, "max")),
            "pooling='max': expected 'mean' or 'last'",
        ),
        (lambda: GriffinTextConfig(griffin=GRIFFIN, directions=3), "directions=3: expected 1, for"),
        (
            lambda: GriffinTextConfig(
                griffin=dataclasses.replace(
                    GRIFFIN, pattern=("global_attention",), context_length=8
                )
            ),
            "length=55: the Griffin's global attention holds 8 tokens",
        ),
        (
            lambda: filled(lambda: TRANSFORMER.module(rngs=nnx.Rngs(0)))(
                np.zeros((1, 9), int), np.ones((1, 9))
            ),
            "a caption of 9 tokens: the text tower takes 5; cut it, or build the tower with len",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        make()
