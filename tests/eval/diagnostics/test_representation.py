# SPDX-License-Identifier: Apache-2.0
"""Ranks and units against their direct formulas in float64; batch by batch as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.diagnostics import representation as rep
from recurrentgemma.errors import UserError

ROWS, WIDTH = 300, 24


@pytest.fixture(scope="module")
def x_ND() -> np.ndarray:
    """Features whose singular values fall over seven powers of ten, and whose mean is not 0: of
    24, the last 4 are made of the others."""
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(ROWS, WIDTH)) * 10.0 ** -np.linspace(0, 5, WIDTH) + 0.3
    x_ND[:, 20:] = x_ND[:, :4] @ rng.normal(size=(4, 4))
    return (x_ND @ np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]).astype(np.float32)


def direct_ranks(x_ND: np.ndarray) -> dict[str, float]:
    """Word for word from the table of formulas, with all rows at once."""
    sigma = np.linalg.svd(x_ND.astype(np.float64), compute_uv=False)
    square, p = np.cumsum(sigma**2), sigma / sigma.sum()
    p = p[p > 0]
    direct = {
        "pca_rank": 1 + np.argmax(square >= 0.99 * square[-1]),
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "srank": 1 + np.argmax(np.cumsum(sigma) >= 0.99 * sigma.sum()),
        "feature_rank": np.sum(sigma / np.sqrt(len(x_ND)) > 0.01),
        "numerical_rank": np.linalg.matrix_rank(x_ND.astype(np.float32)),
    }
    return {name: float(rank) for name, rank in direct.items()}


def test_streamed_ranks_are_the_direct_formulas(x_ND):
    features = rep.no_features(WIDTH)
    real_N = np.ones(ROWS + 20, bool)
    real_N[50:70] = False  # rows of padding, whatever lies there
    padded_ND = np.insert(x_ND, 50, np.full((20, WIDTH), 7e3, np.float32), axis=0)
    for start in range(0, len(padded_ND), 70):  # the last batch is shorter
        part = slice(start, start + 70)
        features = rep.add_features(features, padded_ND[part], jnp.asarray(real_N[part]))
    expected = direct_ranks(x_ND)
    assert expected["pca_rank"] < expected["srank"] < expected["numerical_rank"] == 20
    got = {name: float(rank) for name, rank in rep.ranks(features).items()}
    assert got == pytest.approx(expected, rel=1e-5)
    assert int(features.count) == ROWS
    norms = np.linalg.norm(x_ND.astype(np.float64), axis=1)
    assert float(features.norm) == pytest.approx(norms.mean(), rel=1e-5)
    moment_DD = x_ND.T.astype(np.float64) @ x_ND
    factor_DD = np.asarray(features.factor_DD, np.float64)
    np.testing.assert_allclose(factor_DD.T @ factor_DD, moment_DD, atol=1e-5 * moment_DD.max())


def test_ranks_of_nothing_and_of_one_direction():
    zeros = rep.ranks(rep.features_of(jnp.zeros((8, 4))))
    assert {name: float(rank) for name, rank in zeros.items()} == dict.fromkeys(zeros, 0.0)
    one = rep.ranks(rep.features_of(jnp.ones((8, 4))))
    assert {round(float(rank), 5) for rank in one.values()} == {1.0}


def test_too_few_rows_for_a_rank():
    few = rep.features_of(jnp.ones((3, 4)))
    with pytest.raises(UserError, match=r"3 rows .* rank of 4 features.*give at least 4, better 8"):
        rep.ranks(few)
    traced = jax.jit(rep.ranks)(few)
    assert all(np.isnan(rank) for rank in traced.values())
    assert not np.isnan(jax.jit(rep.ranks)(rep.features_of(jnp.ones((4, 4))))["pca_rank"])
    lost = rep.ranks(rep.features_of(jnp.full((8, 4), jnp.nan)))
    assert all(np.isnan(rank) for rank in lost.values())


def test_ranks_are_vmapped_over_seeds(x_ND):
    many = np.stack([x_ND, x_ND[::-1] * 2, np.zeros_like(x_ND)])
    ranks = jax.vmap(lambda x: rep.ranks(rep.features_of(x)))(many)
    expected = direct_ranks(x_ND)
    for name in ("pca_rank", "srank", "numerical_rank"):
        assert ranks[name].tolist() == [expected[name], expected[name], 0]


@pytest.fixture(scope="module")
def z_NF() -> np.ndarray:
    """Pre-activations: 0 always negative, 1 always positive, 2 nearly constant near 0.5, 3 above 2,
    4 below -3, 5 exactly 0, the others on both sides of 0."""
    z_NF = np.random.default_rng(1).normal(size=(200, 12)).astype(np.float32)
    z_NF[:, 0] = -np.abs(z_NF[:, 0]) - 0.1
    z_NF[:, 1] = np.abs(z_NF[:, 1]) + 0.1
    z_NF[:, 2] = 0.5 + 0.01 * z_NF[:, 2]
    z_NF[:, 3] = 3 + np.abs(z_NF[:, 3])
    z_NF[:, 4] = -4 - np.abs(z_NF[:, 4])
    z_NF[:, 5] = 0
    return z_NF


def streamed(z_NF: np.ndarray, a_NF: np.ndarray) -> rep.Units:
    units = rep.no_units(z_NF.shape[1])
    real_N = jnp.arange(90) < 64
    for start in range(0, len(z_NF), 64):
        z, a = (np.full((90, z_NF.shape[1]), np.nan, np.float32) for _ in "za")
        rows = len(z_NF[start : start + 64])
        z[:rows], a[:rows] = z_NF[start : start + 64], a_NF[start : start + 64]
        units = rep.add_units(
            units, jnp.asarray(z), jnp.asarray(a), real_N & (jnp.arange(90) < rows)
        )
    return units


def test_streamed_moments_are_the_direct_formulas(z_NF):
    a_NF = np.asarray(jax.nn.gelu(z_NF))
    units = streamed(z_NF, a_NF)
    z, a = z_NF.astype(np.float64), a_NF.astype(np.float64)
    dz, da = z - z.mean(0), a - a.mean(0)
    values = (
        *(len(z), z.min(0), z.max(0), z.mean(0), (dz**2).sum(0), a.mean(0), (da**2).sum(0)),
        *((dz * da).sum(0), abs(a).mean(0), abs(a).max(0), np.linalg.norm(z, axis=1).mean()),
    )
    for name, value in zip(rep.Units._fields, values, strict=True):
        np.testing.assert_allclose(getattr(units, name), value, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(rep.energy(units), (a**2).sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rep.spread(units), z.std(0), rtol=1e-5, atol=1e-6)


def numbers(mask) -> list[int]:
    return np.flatnonzero(np.asarray(mask)).tolist()


def test_units_of_relu(z_NF):
    units = streamed(z_NF, np.maximum(z_NF, 0))
    assert numbers(rep.dead(units)) == [0, 4, 5]
    assert numbers(rep.negative(units)) == [0, 4, 5]
    assert numbers(rep.positive(units)) == [1, 2, 3]
    assert numbers(rep.linearised(units)) == [1, 2, 3]
    assert numbers(rep.dormant(units)) == [0, 4, 5]


def test_units_of_smooth_activations(z_NF):
    units = streamed(z_NF, np.asarray(jax.nn.gelu(z_NF)))
    assert numbers(rep.dead(units)) == [5]
    assert numbers(rep.linearised(units)) == [1, 2, 3]
    assert numbers(rep.gelu_open(units)) == [3]
    assert numbers(rep.gelu_closed(units)) == [4]
    assert numbers(rep.near_dead(units)) == [4, 5]
    assert numbers(rep.dormant(units)) == [4, 5]
    leaky = streamed(z_NF, np.where(z_NF > 0, z_NF, 0.05 * z_NF))
    assert numbers(rep.linearised(leaky)) == [0, 1, 2, 3, 4]
    tanh = streamed(z_NF, np.tanh(10 * z_NF))
    assert numbers(rep.constant(tanh)) == [2, 3, 4, 5]  # 2: saturated, though not dead


def test_norms_of_parameters_and_updates():
    w = jnp.array([[3.0, 0.0], [0.0, 4.0]], jnp.bfloat16)
    assert float(rep.norm(w)) == 5.0
    assert float(rep.update_ratio(w, w / 10)) == pytest.approx(0.1, rel=1e-2)
    assert np.isnan(rep.update_ratio(jnp.zeros(3), jnp.ones(3)))
