# SPDX-License-Identifier: Apache-2.0
"""The training step: it learns, holds the temperature, sums over batches, and is the same over
eight devices as on one."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh, parameter_name
from tests.training.recipes.sparc.small_pairs import GRIFFIN, TOKENS, batch, filled, towers
from training.recipes.sparc import step as sparc_step
from training.recipes.sparc.objectives import OBJECTIVES
from training.recipes.sparc.step import (
    Settings,
    check_mesh,
    init_state,
    learning_rate_at,
    make_step,
    paper_settings,
    place_batch,
)
from training.recipes.sparc.text import GriffinTextConfig
from training.recipes.sparc.towers import ImageText

SETTINGS = Settings(steps=60, learning_rate=1e-2, warmup_steps=2, largest_scale=14.0)
# A large epsilon: Adam would turn the rounding of gradients near 0 into whole steps.
EVEN = Settings(
    steps=60, learning_rate=1e-2, warmup_steps=0, largest_scale=14.0, eps=1.0, gap=False
)
MESH = MeshConfig(data=4, fsdp=2)
SPARC, MGCA = OBJECTIVES["sparc"], OBJECTIVES["mgca"]


@pytest.fixture(scope="module")
def model() -> ImageText:
    return filled(lambda: ImageText(towers(), rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def two_batches(model: ImageText):
    """The step of two batches."""
    graphdef, _ = nnx.split(model, nnx.Param)
    return make_step(graphdef, MGCA, SETTINGS)


def steps_on(mesh, config, objective, settings: Settings) -> tuple:
    """Metrics of the first step, and parameters after the second."""
    fresh = filled(lambda: ImageText(config, rngs=nnx.Rngs(0)))
    graphdef, state = init_state(fresh, objective, settings, mesh=mesh)
    step = make_step(graphdef, objective, settings, mesh=mesh)
    pairs = batch() if mesh is None else place_batch(mesh, batch())
    state, metrics = step(state, (pairs,))
    state, _ = step(state, (pairs,))
    return jax.tree.map(np.asarray, (metrics, state.params))


@pytest.fixture(scope="module")
def on_one_device() -> tuple:
    return steps_on(None, towers(), MGCA, EVEN)


def test_it_learns_and_holds_the_temperature(model: ImageText, two_batches):
    _, state = init_state(model, MGCA, SETTINGS)
    seen = []
    for _ in range(40):
        state, metrics = two_batches(state, (batch(), batch(1)))
        seen.append({name: float(value) for name, value in metrics.items()})
    first, last = seen[0], seen[-1]
    assert set(last) == {
        *("loss", "global", "local", "gap", "scale", "grad_norm", "learning_rate"),
    }
    assert int(state.step) == 40
    assert first["loss"] == pytest.approx(first["global"] + first["local"], rel=1e-5)
    assert last["global"] < 0.5 * first["global"]
    assert first["scale"] == pytest.approx(14.0, rel=1e-5)  # it begins with 1 / 0.07 = 14.3
    assert max(one["scale"] for one in seen) <= 14.0 * (1 + 1e-5)
    assert last["scale"] != pytest.approx(14.0, rel=1e-5)  # and is learned
    assert first["learning_rate"] == 0.0
    assert last["learning_rate"] == pytest.approx(float(learning_rate_at(SETTINGS, 39)))


def test_gradients_of_batches_are_summed(model: ImageText, two_batches, on_one_device):
    _, state = init_state(model, MGCA, SETTINGS)
    _, metrics = two_batches(state, (batch(), batch()))
    one = on_one_device[0]
    assert float(metrics["grad_norm"]) == pytest.approx(2 * one["grad_norm"], rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(one["loss"], rel=1e-5)


def compare(one: tuple, eight: tuple) -> None:
    for expected, value in zip(*map(jax.tree.leaves, (one, eight)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=2e-5)


def test_over_eight_devices_as_on_one(on_one_device):
    compare(on_one_device, steps_on(make_mesh(MESH), towers(), MGCA, EVEN))


@pytest.mark.slow
def test_a_griffin_over_eight_devices_as_on_one():
    text = GriffinTextConfig(griffin=GRIFFIN, length=TOKENS, directions=2)
    settings = dataclasses.replace(EVEN, gap=True, language_weight=0.3)
    compare(*(steps_on(mesh, towers(text), SPARC, settings) for mesh in (None, make_mesh(MESH))))


def test_linear_layers_alone_decay(model: ImageText):
    _, params = nnx.split(model, nnx.Param)
    decays = jax.tree_util.tree_flatten_with_path(sparc_step._decays({"model": params}))[0]
    names = {parameter_name(path).split("/")[-1] for path, decay in decays if decay}
    others = {parameter_name(path).split("/")[-1] for path, decay in decays if not decay}
    assert names == {"kernel"}
    assert others == {"bias", "scale", "log_scale", "positions_SD", "positions_LF", "embedding_VF"}


def test_a_transformer_has_no_language_loss(model: ImageText):
    graphdef, state = init_state(model, SPARC, SETTINGS)
    step = make_step(graphdef, SPARC, dataclasses.replace(SETTINGS, language_weight=1.0))
    with pytest.raises(UserError, match="a Transformer that reads both ways, is no language model"):
        jax.eval_shape(step, state, (batch(),))


def test_settings_and_meshes_that_cannot_be():
    assert paper_settings(large=True).steps == 250_000
    assert (paper_settings().steps, paper_settings().warmup_steps) == (200_000, 2_500)
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    with pytest.raises(UserError, match="mesh axis tensor=2: image-text training divides rows al"):
        check_mesh(mesh)
    for make, message in (
        (partial(Settings, steps=5, warmup_steps=5), "steps=5, warmup_steps=5: expected fewer"),
        (partial(Settings, steps=500, learning_rate=0.0), "learning_rate=0.0: expected more"),
        (partial(Settings, steps=500, language_weight=-1.0), "language_weight=-1.0: expected 0"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    rows = make_mesh(MeshConfig(data=8))
    few = type(batch())(*(x[:6] for x in batch()))
    with pytest.raises(UserError, match="a batch of 6 rows does not divide"):
        place_batch(rows, few)
