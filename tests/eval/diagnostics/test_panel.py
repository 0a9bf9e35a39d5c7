# SPDX-License-Identifier: Apache-2.0
"""Names of what is measured, and which layers of it."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from eval.diagnostics import panel
from eval.diagnostics.layers import no_moments
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.drawn import untrained
from tests.training.small_rows import CONFIG


def test_matrices_by_canonical_name():
    model = untrained(CONFIG)
    params = nnx.state(model, nnx.Param)
    tenth = jax.tree.map(lambda x: -x / 10, params)
    norms, ratios = jax.jit(lambda p, u: (panel.weight_norms(p), panel.update_ratios(p, u)))(
        params, tenth
    )
    norms = panel.by_name(CONFIG, "weight_norm", norms)
    expected = {
        f"weight_norm/{name}": float(jnp.linalg.norm(w))
        for name, w in flat_params(model).items()
        if w.ndim > 1 and not name.endswith("/b")
    }
    assert norms == pytest.approx(expected, rel=1e-5)
    for ratio in panel.by_name(CONFIG, "update_ratio", ratios).values():
        assert ratio == pytest.approx(0.1, rel=1e-5)


def test_layers_are_chosen_in_their_order():
    moments = jax.eval_shape(lambda: no_moments(CONFIG))
    chosen = panel.chosen(moments, (1, 0))
    assert [layer.branch is None for layer in chosen.layers] == [True, False]
    with pytest.raises(UserError, match="layer 2: the model has layers 0 to 1"):
        panel.chosen(moments, (2,))


def test_how_gradients_agree():
    products_RR = jnp.array([[4.0, -2.0, 0.0], [-2.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    numbers = panel.as_numbers(panel.of_gradients(products_RR))
    assert numbers["gradients/negative_share"] == pytest.approx(1 / 3)
    assert numbers["gradients/norm"] == pytest.approx(2)
    assert numbers["gradients/effective_rank"] == pytest.approx(1.92, abs=0.01)  # of 5 and 9
