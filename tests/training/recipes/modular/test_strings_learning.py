# SPDX-License-Identifier: Apache-2.0
"""A seed of the string tasks, small: templates learn, a code and each rival adapt, shots are those
of every support."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrentgemma.hyper_config import HyperConfig
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import flat_params, from_flat_params
from training.recipes.modular import strings_learning
from training.recipes.modular.strings import examples
from training.recipes.modular.strings_learning import (
    METHODS,
    StringsArm,
    fitted,
    measured,
    read_once,
    scores,
    strings_griffin,
)

SMALL = StringsArm(
    kind="ring",
    model=dataclasses.replace(
        strings_griffin(),
        width=16,
        mlp_width=16,
        lru_width=16,
        head_dim=8,
        num_layers=2,
        pattern=("recurrent", "local_attention"),
    ),
    hyper=HyperConfig(templates=2, rank=2),
    lora=LoraConfig(rank=2, alpha=4.0),
    base_steps=30,
    template_steps=40,
    rows=1,
    fit_steps=3,
    tested=2,
    shots=4,
    queries=4,
)


def test_the_size_that_the_text_states():
    shapes = param_shapes(strings_griffin())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 167_104


def test_a_seed(monkeypatch: pytest.MonkeyPatch):
    seen, side_by_side = [], strings_learning.side_by_side

    def kept(combinations_KF, rows, random):
        batch = side_by_side(combinations_KF, rows, random)
        seen.append(np.asarray(batch.tokens_BT))
        return batch

    monkeypatch.setattr(strings_learning, "side_by_side", kept)
    numbers = measured(SMALL, 0, ("none", "code"))
    bits = {name: one["bits"] for name, one in numbers["held_out"].items()}
    assert all(0 < value < 8 for value in bits.values())
    assert bits["none"] != bits["code"]
    assert numbers["losses"]["templates"] < numbers["losses"]["base"] < 4.8
    shots, queries = seen[-4:-2]
    measured(dataclasses.replace(SMALL, kind="disconnected"), 0, ("none",))
    np.testing.assert_array_equal(seen[-4], shots)  # the same for another support
    np.testing.assert_array_equal(seen[-3], queries)


@pytest.mark.slow  # each method is a program
def test_every_method_does_something_of_its_own():
    numbers = measured(SMALL, 0)
    assert tuple(numbers["held_out"]) == METHODS
    bits = {name: one["bits"] for name, one in numbers["held_out"].items()}
    assert len(set(bits.values())) == len(METHODS)
    assert bits["LoRA"] < bits["none"]


def test_fitting_and_reading_once():
    """Of a mean: fitted to all shots, or moved by each one."""
    shots = examples(np.zeros((3, 3), int), np.random.default_rng(0))
    shots = jax.tree.map(jnp.asarray, shots)

    def loss(value, batch):
        return jnp.square(value - jnp.sum(batch.weights_BT))

    wanted = float(jnp.sum(shots.weights_BT))
    assert float(fitted(loss, jnp.zeros(()), shots, 0.5, 200)) == pytest.approx(wanted, abs=0.3)
    moved, value = read_once(loss, jnp.zeros(()), shots, optax.sgd(0.25)), 0.0
    for row_T in np.asarray(shots.weights_BT):
        value += 0.5 * (row_T.sum() - value)
    assert float(moved) == pytest.approx(value)


def test_scores():
    """A model whose likeliest byte is always the end gets only the ends right."""
    batch = jax.tree.map(jnp.asarray, examples(np.zeros((2, 3), int), np.random.default_rng(0)))
    shapes = param_shapes(SMALL.model)
    flat = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    model = from_flat_params(SMALL.model, flat)
    test = jax.jit(scores)
    exact, bits = test(model, batch)
    assert float(exact) == 0.0
    assert float(bits) == pytest.approx(7.0)  # of 128 bytes, all alike
    ends = batch._replace(weights_BT=(batch.targets_BT == 0).astype(jnp.float32))
    assert float(test(model, ends)[0]) == 1.0  # argmax of equal logits is byte 0
    assert flat_params(model).keys() == flat.keys()
