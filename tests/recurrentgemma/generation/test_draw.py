"""Sampling: what may be drawn, how often, and that a row is its own affair."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from recurrentgemma.generation.draw import SamplingArrays, log_probs, sample, sampling_arrays
from recurrentgemma.generation.sampling import samplings

SAMPLE = jax.jit(sample)
V = 50


def arrays_of(count: int, **options) -> SamplingArrays:
    return sampling_arrays(samplings(count, options))


def draws(logits_V, *, steps=500, **options) -> np.ndarray:
    """Tokens drawn at steps 0, 1, ... from the same logits with the same seed."""
    sampling = arrays_of(steps, seed=options.pop("seed", 0), **options)
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32)[None], (steps, len(logits_V)))
    return np.asarray(SAMPLE(logits_BV, sampling, jnp.arange(steps, dtype=jnp.int32)))


def random_logits(seed: int, size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32) * 2


def expected_support(logits_V, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> set[int]:
    """By sorting, in float64."""
    p = special.softmax(logits_V.astype(np.float64) / temperature)
    order = np.argsort(-p)
    kept = order[: top_k or None]
    before = np.cumsum(p[kept]) / p[kept].sum() - p[kept] / p[kept].sum()
    kept = kept[before < top_p]
    return set(kept[p[kept] >= min_p * p.max()].tolist())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.5},
        {"top_p": 1e-6},
        {"min_p": 0.3},
        {"top_k": 9, "top_p": 0.8},
        {"top_k": 12, "top_p": 0.9, "min_p": 0.1, "temperature": 2.0},
        {"top_k": 1000, "top_p": 1.0, "min_p": 0.0, "temperature": 0.5},
    ],
)
def test_all_and_only_the_tokens_kept_are_drawn(seed, options):
    logits_V = random_logits(seed, 15)
    options = {"temperature": 1.0} | options
    drawn = set(draws(logits_V, steps=5_000, **options).tolist())
    expected = expected_support(logits_V, **options)
    assert drawn <= expected
    p = special.softmax(logits_V / options["temperature"])
    assert {i for i in expected if p[i] > 4e-3} <= drawn


@pytest.mark.parametrize("size", [2, 15, 300])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_they_should(size, temperature):
    logits_V, count = random_logits(size, size), 8_000
    p = special.softmax(logits_V.astype(np.float64) / temperature)
    drawn = np.bincount(draws(logits_V, steps=count, temperature=temperature), minlength=size)
    sigma = np.sqrt(count * p * (1 - p))
    assert (np.abs(drawn - count * p) < 5 * sigma + 1).all()
    assert np.abs(drawn / count - p).sum() < 2.5 * np.sqrt(size / count)


def test_zero_temperature_takes_the_likeliest_and_the_first_of_equals():
    logits_BV = jnp.asarray([[0.0, 3.0, 3.0, 1.0], [-1.0, -1.0, -2.0, -9.0]])
    sampling = arrays_of(2, top_k=2, top_p=0.1)
    assert SAMPLE(logits_BV, sampling, jnp.zeros(2, jnp.int32)).tolist() == [1, 0]


def test_a_tiny_temperature_is_the_likeliest_too():
    logits_V = random_logits(0)
    for temperature in (1e-30, 1e-7, 1e-5, 1e-3):
        assert set(draws(logits_V, temperature=temperature).tolist()) == {int(logits_V.argmax())}


@given(data=st.data())
def test_a_row_depends_on_itself_alone(data):
    """Not on its place nor on its neighbours, greedy ones included."""
    rows = [
        {
            "temperature": data.draw(st.sampled_from([0.0, 0.7, 1.0])),
            "top_k": data.draw(st.sampled_from([None, 0, 3, V])),
            "top_p": data.draw(st.sampled_from([1.0, 0.5, 0.9])),
            "min_p": data.draw(st.sampled_from([0.0, 0.2])),
            "seed": data.draw(st.integers(-(2**63), 2**64 - 1)),
        }
        for _ in range(4)
    ]
    steps = data.draw(st.lists(st.integers(0, 10_000), min_size=4, max_size=4))
    seed = data.draw(st.integers(0, 100))
    logits = np.stack([random_logits(seed + i) for i in range(4)])
    order = data.draw(st.permutations(range(4)))

    def drawn_in(order) -> list[int]:
        options = {name: [rows[i][name] for i in order] for name in rows[0]}
        sampling = arrays_of(len(order), **options)
        step_B = jnp.asarray([steps[i] for i in order], jnp.int32)
        return SAMPLE(jnp.asarray(logits[list(order)]), sampling, step_B).tolist()

    alone = [drawn_in([i])[0] for i in range(4)]
    assert drawn_in(order) == [alone[i] for i in order]


def test_seeds_and_steps_give_new_draws_and_the_same_again():
    flat_V = np.zeros(1000)
    first = draws(flat_V, temperature=1.0, seed=5)
    assert len(set(first.tolist())) > 300
    assert (first == draws(flat_V, temperature=1.0, seed=5)).all()
    for other in (6, -5, 5 + 2**32):
        assert (first != draws(flat_V, temperature=1.0, seed=other)).mean() > 0.9
    unseeded = draws(flat_V, temperature=1.0, seed=None)
    assert (unseeded != draws(flat_V, temperature=1.0, seed=None)).mean() > 0.9


def test_nothing_is_sorted_and_greedy_rows_pay_for_nothing_else():
    """The vocabulary may have 256,000 entries: a sort costs more than the model's own step."""
    shapes = jax.ShapeDtypeStruct((2, V), jnp.float32), arrays_of(2)
    jaxpr = jax.make_jaxpr(sample)(*shapes, jnp.zeros(2, jnp.int32)).jaxpr
    assert not {"sort", "top_k", "approx_top_k", "cumsum"} & _primitives(jaxpr)
    outside = {equation.primitive.name for equation in jaxpr.eqns}
    assert "cond" in outside
    assert not {"exp", "random_bits", "threefry2x32", "while", "scan"} & outside


def _primitives(jaxpr) -> set[str]:
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            names |= _primitives(inner)
    return names


def test_log_probs():
    logits_BV = np.stack([random_logits(0), random_logits(1)])
    logp_B, top_BN, tokens_BN = log_probs(jnp.asarray(logits_BV), jnp.asarray([3, 4]), 5)
    expected = special.log_softmax(logits_BV.astype(np.float64), axis=-1)
    order = np.argsort(-expected, axis=-1)[:, :5]
    np.testing.assert_allclose(logp_B, expected[[0, 1], [3, 4]], atol=1e-5)
    np.testing.assert_array_equal(tokens_BN, order)
    np.testing.assert_allclose(top_BN, np.take_along_axis(expected, order, -1), atol=1e-5)


def test_a_top_k_beyond_32_bits_keeps_every_token():
    assert arrays_of(2, top_k=[None, 2**40]).top_k_B.tolist() == [0, 2**31 - 1]
