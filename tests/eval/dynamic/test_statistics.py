# SPDX-License-Identifier: Apache-2.0
"""Gradient statistics against single gradients; their file, and whom they serve."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.parameters import split
from eval.dynamic.segments import cut
from eval.dynamic.statistics import gradient_statistics, read, write
from eval.dynamic.step import segment_loss
from recurrentgemma.errors import UserError
from recurrentgemma.state import init_state
from tests.eval.dynamic.small import CONFIG, PLAIN, documents, language_model, statistics


def test_they_are_the_mean_of_squares_over_segments():
    parts, squares = split(language_model(), PLAIN), []

    @jax.jit
    def gradient(segment, state):
        run = lambda adapted: segment_loss(  # noqa: E731
            parts.form, PLAIN, adapted, parts.frozen, segment, state
        )
        return jax.grad(run, has_aux=True)(parts.pretrained)

    texts = documents(30, 20)
    for number, places in ((0, (0, 8, 16)), (1, (0, 8, 16))):  # three rounds of two streams
        state, ids = init_state(CONFIG, 1), texts.read(number).document.ids
        for start in places:
            segment = cut(PLAIN, ids, start, min(8, len(ids) - 1 - start))
            grads, (_, state, _) = gradient(jax.tree.map(jnp.asarray, segment), state)
            squares.append(jax.tree.map(jnp.square, grads))
    measured = statistics()
    assert measured.segments == 6
    for name, x in measured.mean_square.items():
        expected = np.mean([s[name] for s in squares], 0)
        np.testing.assert_allclose(x, expected, rtol=2e-3, atol=1e-9)


def test_they_survive_a_file(tmp_path):
    measured = statistics()
    write(tmp_path / "rms", measured)
    back = read(tmp_path / "rms")
    assert back.fingerprint == measured.fingerprint
    assert dataclasses.replace(back, mean_square={}) == dataclasses.replace(
        measured, mean_square={}
    )
    back.check(language_model(), PLAIN)
    back.check(language_model(), dataclasses.replace(PLAIN, parameters="mlp"))
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(UserError, match="text is no file of gradient statistics"):
        read(tmp_path / "text")
    with pytest.raises(UserError, match="there is no file of gradient statistics"):
        read(tmp_path / "other")


def test_whom_they_do_not_serve():
    measured = statistics()
    with pytest.raises(UserError, match="of another model"):
        measured.check(language_model(seed=1), PLAIN)
    with pytest.raises(UserError, match="segments of 8 tokens, and segment_length=16"):
        measured.check(language_model(), dataclasses.replace(PLAIN, segment_length=16))
    lora = DynamicConfig(
        segment_length=8, parameters="lora", optimizer=OptimizerConfig(algorithm="rms")
    )
    with pytest.raises(UserError, match="of parameters all, and these are lora rank=8"):
        measured.check(language_model(), lora)
    with pytest.raises(UserError, match="no text to make gradient statistics of"):
        gradient_statistics(language_model(), documents(1), PLAIN)
