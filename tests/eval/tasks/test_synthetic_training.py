# SPDX-License-Identifier: Apache-2.0
"""A small model learns a short task, the same steps whatever the calls they come in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.tasks.synthetic_models import synthetic_model
from eval.tasks.synthetic_task import TASKS, measure
from eval.tasks.synthetic_training import (
    STUDY,
    SyntheticTraining,
    TrainingChoices,
    _key,
    decayed_parameters,
)
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharding import parameter_name
from tests.drawn import untrained

TASK = dataclasses.replace(TASKS["induction_heads"], length=8)
CHOICES = TrainingChoices(
    steps=200,
    tokens_per_step=256,
    shortest=8,
    growing=0.0,
    learning_rate=1e-2,
    warmup_steps=10,
    block=50,
)
CONFIG = dataclasses.replace(
    synthetic_model("hawk", window=4, context_length=8), num_layers=1, width=16, mlp_width=32
)


@pytest.fixture(scope="module")
def training() -> SyntheticTraining:
    return SyntheticTraining(CONFIG, TASK, CHOICES)


def test_it_learns(training: SyntheticTraining):
    state, losses = training.start(0), []
    for step in range(0, CHOICES.steps, CHOICES.block):
        state, point = training.advance(state, step)
        losses.append(float(point.loss))
    assert int(state.step) == CHOICES.steps
    assert 1.5 < losses[0] < 3.2  # log 15 is 2.7
    assert losses[-1] < 1.0
    before = training.start(0).params
    at_first, at_last = (
        measure(CONFIG, params, TASK, 8, sequences=64, batch_size=64, seed=9).answers
        for params in (before, state.params)
    )
    assert at_first < 20
    assert at_last > 40


def test_seeds_differ_and_repeat(training: SyntheticTraining):
    def first(seed: int) -> tuple[np.ndarray, float]:
        state = training.start(seed)
        param = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])
        return param, float(training.advance(state, 0)[1].loss)

    (a, loss_a), (b, loss_b), (c, loss_c) = map(first, (1, 1, 2))
    assert (a == b).all()
    assert loss_a == loss_b != loss_c
    assert (a != c).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 150}, "steps=150: expected a multiple of 100"),
        ({"tokens_per_step": 0}, "tokens_per_step=0: expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: expected above 0"),
    ],
)
def test_choices_are_checked(given: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(STUDY["induction_heads"], **given)


def test_sequences_grow_to_the_tasks_length():
    choices = TrainingChoices(steps=800, tokens_per_step=1, shortest=16, growing=0.25)
    assert [choices.length_at(step, 64) for step in (0, 99, 100, 199, 200, 799)] == [
        *(16, 16, 32, 32, 64, 64)
    ]
    for length, lengths in ((8, [8, 8]), (16, [16, 16]), (24, [16, 24])):
        assert [choices.length_at(step, length) for step in (199, 200)] == lengths


def test_the_window_of_attention_grows_with_the_sequences():
    """Half as long: half the window, and the loss is that of a model that has no more."""
    config = dataclasses.replace(CONFIG, pattern=("local_attention",))
    choices = dataclasses.replace(CHOICES, shortest=4, growing=1.0, block=1)
    training = SyntheticTraining(config, TASK, choices)
    state = training.start(0)
    # Larger ones, so that it matters what attention sees.
    state = state._replace(params=jax.tree.map(lambda param: 3 * param, state.params))
    tokens_BT, answers_BA = TASK.draw(_key(state.seed, state.step), 256 // 4, 4)

    def loss(window: int) -> float:
        narrow = dataclasses.replace(config, attention_window=window)
        model = nnx.merge(nnx.split(untrained(narrow))[0], state.params)
        log_probs_BAV = jax.nn.log_softmax(model.unembed(model.hidden(tokens_BT)[0][:, -1:]))
        return -float(jnp.mean(jnp.take_along_axis(log_probs_BAV, answers_BA[..., None], 2)))

    of_half, of_whole = loss(2), loss(4)
    point = training.advance(state, 0)[1]
    assert float(point.loss) == pytest.approx(of_half, abs=1e-5)
    assert abs(of_half - of_whole) > 1e-4


def test_the_recurrence_does_not_decay():
    params = nnx.split(nnx.eval_shape(lambda: Griffin(CONFIG, rngs=nnx.Rngs(0))))[1]
    decayed = {
        parameter_name(path)
        for path, decays in jax.tree_util.tree_leaves_with_path(decayed_parameters(params))
        if decays
    }
    assert "embedder/input_embedding" in decayed
    assert not [name for name in decayed if "rg_lru" in name or "conv" in name or "bias" in name]
    assert len(decayed) == 1 + 3 + 3  # the embedding, the recurrent block's layers, the MLP's


def test_there_is_a_study_of_every_task():
    assert STUDY.keys() == TASKS.keys()
