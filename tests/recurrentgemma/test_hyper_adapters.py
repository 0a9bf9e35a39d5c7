# SPDX-License-Identifier: Apache-2.0
"""Templates and codes: what a code adds to a weight, its norm and gradient, and rows of several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.adapters import A, B, attach
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_adapters import (
    GROUPS,
    HyperConfig,
    as_lora,
    check_templates,
    code_of,
    coded,
    fresh_codes,
    fresh_templates,
    group_of,
    normed,
    plain_code,
)
from recurrentgemma.params import Flat, flat_params, from_flat_params
from tests.drawn import normal
from tests.recurrentgemma.models import GRIFFIN, call, make, tokens

HYPER = HyperConfig(templates=3, rank=2, alpha=6.0)


def templates() -> Flat:
    """Whose B is not zero."""
    flat = fresh_templates(GRIFFIN, HYPER, seed=0)
    return {
        name: normal(seed, x.shape) / 3 if name.endswith(B) else x
        for seed, (name, x) in enumerate(flat.items())
    }


def test_groups():
    names = [f"blocks.{layer}/mlp_block/ffw_up/weight" for layer in range(4)]
    assert [group_of(name, 4) for name in names] == [0, 1, 1, 2]
    assert group_of("blocks.0/mlp_block/ffw_up", 1) == 0


def test_fresh_templates_change_nothing():
    fresh, ids = fresh_templates(GRIFFIN, HYPER, seed=0), tokens(0, 1, 12)
    assert fresh.keys() == templates().keys()
    model = attach(make("griffin"), coded(GRIFFIN, HYPER, fresh, plain_code(HYPER)), scale=1.0)
    np.testing.assert_array_equal(call(model, ids)[0], call(make("griffin"), ids)[0])
    other = fresh_templates(GRIFFIN, dataclasses.replace(HYPER, layers=".*/ffw_up"), seed=0)
    name = f"blocks.1/mlp_block/ffw_up/{A}"
    np.testing.assert_array_equal(other[name], fresh[name])
    assert len(other) == 2 * GRIFFIN.num_layers


def test_what_a_code_adds():
    """W + scale sum_m e_m (A_m B_m)^T, with the code of the layer's group at norm sqrt(M)."""
    flat, ids = templates(), tokens(0, 2, 12)
    code_GM = jnp.asarray([[1.0, 2.0, -2.0], [0.0, 5.0, 0.0], [-1.0, 1.0, 1.0]])
    weights = flat_params(make("griffin"))
    for layer in {name.rpartition("/")[0] for name in flat}:
        e_M = np.asarray(code_GM)[group_of(layer, GRIFFIN.num_layers)]
        e_M = e_M / np.linalg.norm(e_M) * np.sqrt(3)
        a, b = flat[f"{layer}/{A}"], flat[f"{layer}/{B}"]
        for m in range(3):
            part = slice(2 * m, 2 * m + 2)
            weights[f"{layer}/weight"] += 6 / 2 / np.sqrt(3) * e_M[m] * (a[:, part] @ b[part]).T
    expected, _ = call(from_flat_params(GRIFFIN, weights), ids)
    adapted = attach(make("griffin"), coded(GRIFFIN, HYPER, flat, code_GM), scale=HYPER.scale)
    np.testing.assert_allclose(call(adapted, ids)[0], expected, atol=5e-5)
    assert float(jnp.abs(expected - call(make("griffin"), ids)[0]).max()) > 0.1
    assert as_lora(HYPER).scale == pytest.approx(HYPER.scale)


def test_a_code_for_each_row():
    flat, ids, codes_BGM = templates(), tokens(0, 3, 10), fresh_codes(HYPER, 3, seed=1)
    model = attach(make("griffin"), coded(GRIFFIN, HYPER, flat, codes_BGM), scale=HYPER.scale)
    batched_BTV, _ = call(model, ids)
    for row in range(3):
        one = coded(GRIFFIN, HYPER, flat, codes_BGM[row])
        alone, _ = call(attach(make("griffin"), one, scale=HYPER.scale), ids[row : row + 1])
        np.testing.assert_allclose(batched_BTV[row : row + 1], alone, atol=2e-5)


def test_the_norm_has_no_gradient():
    codes_BGM = fresh_codes(HYPER, 4, seed=0)
    assert codes_BGM.shape == (4, GROUPS, 3)
    np.testing.assert_allclose(jnp.linalg.norm(codes_BGM, axis=-1), np.sqrt(3), rtol=1e-5)
    gradient = jax.grad(lambda code_GM: jnp.sum(normed(code_GM)))(2 * codes_BGM[0])
    np.testing.assert_allclose(gradient, 0.5, rtol=1e-5)
    assert bool(jnp.isfinite(normed(jnp.zeros((GROUPS, 3)))).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: {n: x for n, x in flat.items() if "blocks.2" not in n}, "is missing there"),
        (lambda flat: flat | {"blocks.9/mlp_block/ffw_up/weight_lora_a": 0}, "not at all"),
        (lambda flat: {n: x[..., :1] for n, x in flat.items()}, r"expected \[32, 6\]"),
    ],
)
def test_templates_of_another_model(change, message):
    flat = {name: np.asarray(x) for name, x in templates().items()}
    check_templates(GRIFFIN, HYPER, flat, "here")
    changed = {name: np.asarray(x) for name, x in change(flat).items()}
    with pytest.raises(UserError, match=f"here: its templates are not of this model.*{message}"):
        check_templates(GRIFFIN, HYPER, changed, "here")


def test_what_is_no_code_or_no_layer():
    assert code_of(HYPER, np.ones((3, 3)), "here").dtype == jnp.float32
    for code in (np.ones((2, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(UserError, match="here: expected a code of 3 x 3 finite numbers"):
            code_of(HYPER, code, "here")
    with pytest.raises(UserError, match=r"^hyper\.rank=99 is larger"):
        fresh_templates(GRIFFIN, HyperConfig(rank=99), seed=0)
    with pytest.raises(UserError, match=r"^hyper\.layers='none' is the name of no linear layer"):
        fresh_templates(GRIFFIN, HyperConfig(layers="none"), seed=0)
