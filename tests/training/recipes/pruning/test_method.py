# SPDX-License-Identifier: Apache-2.0
"""Each part of the method by its own invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from tests.training.recipes.pruning.test_widths import CLASSES, NETWORKS, SHAPE, of
from training.recipes.pruning import method
from training.recipes.pruning.widths import layers_of, network_widths, scaled, shared_axes
from training.recipes.vision.layers import Hidden
from training.recipes.vision.mlp import MLPConfig

CONFIG = NETWORKS["mlp"]
SHARED = shared_axes(CONFIG, SHAPE, CLASSES)


def test_a_unit_is_dead_where_all_its_layers_are():
    a_BHWU = jnp.array([[[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, -1.0]]]])
    b_BHWU = jnp.array([[[[0.0, 0.0, 2.0]]]])
    hidden = {"a": Hidden(a_BHWU, a_BHWU), "b": Hidden(b_BHWU, b_BHWU)}
    dead = method.dead_units(method.activation_sums(hidden), {"one": ["a"], "both": ["a", "b"]})
    assert dead["one"].tolist() == [True, False, True]
    assert dead["both"].tolist() == [True, False, False]


def test_the_penalty_is_on_scales_alone():
    params, _ = of(CONFIG).init(jax.random.key(0))
    paths = method.scale_paths(SHARED)
    assert paths == {("hidden_0", "norm", "scale"), ("hidden_1", "norm", "scale")}
    gradient = method.penalty_gradient(params, paths)
    sizes = {
        jax.tree_util.keystr(path): float(jnp.abs(leaf).sum())
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    assert sum(sizes.values()) == 12 + 9
    assert all((size > 0) == ("scale" in name) for name, size in sizes.items())
    plain = MLPConfig(widths=(4,))
    with pytest.raises(UserError, match=r"units have none: choose Style\(norm='batch'\)"):
        method.scale_paths(shared_axes(plain, SHAPE, CLASSES))


def test_live_noise_touches_no_dead_weight():
    grads = {"a": jnp.array([0.0, 1e-30, -2.0]), "b": jnp.zeros(1000).at[::2].set(1.0)}
    noise = method.live_noise(grads, jax.random.key(0), jnp.float32(5e-5))
    assert (np.asarray(noise["a"]) != 0).tolist() == [False, True, True]
    assert not noise["b"][1::2].any()
    assert float(noise["b"][::2].std()) == pytest.approx(5e-5, rel=0.1)


def test_kept_units_are_the_living_ones():
    live = {"a": np.array([[True, False, True, False], [False, False, False, True]])}
    keep = method.kept_units(live, needed=lambda name: True)
    assert keep["a"].tolist() == [[0, 2], [0, 3]]  # the second seed keeps a dead one, too
    alone = method.kept_units({"a": live["a"][1:]}, needed=lambda name: True)
    assert alone["a"].tolist() == [[3]]
    none = {"a": np.zeros((1, 4), bool)}
    with pytest.raises(UserError, match="a has no living unit left"):
        method.kept_units(none, needed=lambda name: True)
    assert method.kept_units(none, needed=lambda name: False)["a"].shape == (1, 1)


def test_magnitudes_are_those_of_the_kernels_that_make_a_unit():
    params, _ = of(CONFIG).init(jax.random.key(0))
    norms = method.magnitudes(params, SHARED)
    expected = np.linalg.norm(params["hidden_1"]["linear"]["kernel"], axis=0)
    np.testing.assert_allclose(norms["hidden_1"], expected, rtol=1e-6)


def test_masks_keep_the_highest_scores():
    scores = {"a": np.array([[1.0, 4.0, 3.0, 2.0]]), "b": np.array([[0.1, 0.2, 9.0, 8.0]])}
    assert method.smallest_out(scores, 0.5)["a"].tolist() == [[False, True, True, False]]
    assert method.smallest_out(scores, 0.5)["b"].tolist() == [[False, False, True, True]]
    everywhere = method.smallest_out_everywhere(scores, 0.5)
    assert everywhere["a"].tolist() == [[False, True, True, False]]
    low = {**scores, "c": np.array([[0.01, 0.02]])}
    masks = method.smallest_out_everywhere(low, 0.2)
    assert masks["c"].tolist() == [[False, True]]  # a width keeps one unit
    assert sum(mask.sum() for mask in masks.values()) == 4


def test_scores_are_the_derivatives_by_the_gates():
    """SNAP's by central differences of the loss, EarlyCroP's of the gradient's squared norm."""
    network = of(CONFIG)
    params, stats = network.init(jax.random.key(0))
    x_BHWC = normal(1, (16, *SHAPE))
    y_B = jnp.arange(16) % CLASSES

    def loss(params):
        outputs = network.apply(params, stats, x_BHWC).outputs_BO
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y_B[:, None], 1).mean()

    masks = {name: jnp.ones(units) for name, units in network_widths(CONFIG).items()}
    masks["hidden_0"] = masks["hidden_0"].at[3].set(0)

    @jax.jit
    def at(gates):
        value, grads = jax.value_and_grad(lambda g: loss(scaled(params, SHARED, g)))(gates)
        squares = [(grads[name] * masks[name]) ** 2 for name in grads]
        return value, sum(square.sum() for square in squares)

    snap = method.snap_scores(loss, params, SHARED, masks)
    crop = method.crop_scores(loss, params, SHARED, masks)
    assert snap["hidden_0"][3] == crop["hidden_0"][3] == 0
    for unit in (0, 5):
        step = jnp.zeros(12).at[unit].set(1e-2)
        ends = [at({**masks, "hidden_0": masks["hidden_0"] + s * step}) for s in (1, -1)]
        (up, up_norm), (down, down_norm) = jax.tree.map(float, ends)
        assert float(snap["hidden_0"][unit]) == pytest.approx(abs(up - down) / 2e-2, rel=2e-2)
        # d |g|^2 / d gate = 2 (H g), as H is symmetric
        expected = abs(up_norm - down_norm) / 2e-2 / 2
        assert float(crop["hidden_0"][unit]) == pytest.approx(expected, rel=5e-2)
    assert set(snap) == set(layers_of(CONFIG))
