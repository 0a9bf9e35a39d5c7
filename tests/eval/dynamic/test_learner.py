# SPDX-License-Identifier: Apache-2.0
"""Streams of a learner: each as alone, also over devices; kept, left behind and brought back."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from eval.dynamic.config import OptimizerConfig
from eval.dynamic.learner import Learner
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.eval.dynamic.small import PLAIN, RICH, ids_of, language_model, log_probs, run, statistics

TEXTS = [ids_of(33, seed) for seed in range(3)]


@pytest.mark.parametrize(
    "choices", [pytest.param(PLAIN, marks=pytest.mark.slow), RICH], ids=["plain", "rich"]
)
def test_each_stream_is_as_alone(choices):
    expected_SL = run(Learner(language_model(), choices, count=3), TEXTS)
    learner = Learner(language_model(), choices)
    for ids, logp_L in zip(TEXTS, expected_SL, strict=True):
        np.testing.assert_allclose(log_probs(learner, ids), logp_L, atol=2e-4)


def test_over_devices_as_on_one():
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    divided = Learner(language_model(), PLAIN, count=2, mesh=mesh)
    learner = Learner(language_model(), PLAIN)
    expected = [log_probs(learner, ids) for ids in TEXTS[:2]]
    np.testing.assert_allclose(run(divided, TEXTS[:2]), expected, atol=2e-4)
    assert len(divided.streams.version.sharding.device_set) == 2
    with pytest.raises(UserError, match="3 streams cannot be divided over 2 devices"):
        divided.begin(3)
    with pytest.raises(UserError, match="divides streams over data and nothing else"):
        Learner(language_model(), PLAIN, mesh=make_mesh(MeshConfig(tensor=2), jax.devices()[:2]))


def test_what_is_brought_back_goes_on_as_it_would_have():
    learner, other = (Learner(language_model(), RICH, count=3) for _ in range(2))
    run(learner, [ids[:25] for ids in TEXTS])
    other.restore({name: x.copy() for name, x in learner.arrays().items()})
    np.testing.assert_array_equal(run(learner, TEXTS, 24), run(other, TEXTS, 24))
    learner.keep([2, 1])
    assert learner.count == 2
    for name, x in learner.adapted(1).items():
        np.testing.assert_array_equal(x, other.adapted(1)[name])


def test_with_gradient_statistics():
    ids = TEXTS[0]
    rms = OptimizerConfig(algorithm="rms", learning_rate=1e-3, decay=1e-3)
    choices = dataclasses.replace(PLAIN, optimizer=rms)
    adapted = log_probs(Learner(language_model(), choices, statistics=statistics()), ids)
    assert adapted.mean() > language_model().score(ids.tolist()).mean() + 0.02
    with pytest.raises(UserError, match="give training text"):
        Learner(language_model(), choices)
    with pytest.raises(UserError, match="has no effect"):
        Learner(language_model(), PLAIN.static(), tx=optax.sgd(0.3))
    with pytest.raises(UserError, match="tx='lion': expected a transformation"):
        Learner(language_model(), PLAIN, tx="lion")  # type: ignore[arg-type]
