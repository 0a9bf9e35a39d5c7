# SPDX-License-Identifier: Apache-2.0
"""The step against its definition, and that nothing is learned from before it is scored."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig, ReplayConfig, RetainConfig
from eval.dynamic.learner import Learner
from eval.dynamic.segments import cut, nothing, replayed, stacked
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.state import init_state
from tests.eval.dynamic.small import (
    CONFIG,
    PLAIN,
    RICH,
    SGD,
    ids_of,
    language_model,
    log_probs,
    run,
    statistics,
)

IDS = ids_of(21)


@functools.partial(jax.jit, static_argnums=5)
def _gradient(flat, tokens, targets, weights, state, kept: int):
    """(log-probabilities, state after `kept` tokens, gradient) of tokens from a state."""

    def loss(flat):
        model = from_flat_params(CONFIG, flat)
        logits, _ = model(tokens[None], state)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits[0]), targets[:, None], 1)[:, 0]
        after = model(tokens[None, :kept], state)[1] if kept else state
        return -jnp.sum(weights * logp), (logp, after)

    grads, (logp, after) = jax.grad(loss, has_aux=True)(flat)
    return logp, after, grads


def by_definition(choices: DynamicConfig, ids: np.ndarray) -> np.ndarray:
    """SGD on all parameters of whole logits, one segment after the other."""
    flat, state = flat_params(language_model().model), init_state(CONFIG, 1)
    scores, gathered, size = [], [], choices.segment_length
    for start in range(0, len(ids) - 1, size):
        before, stop = min(choices.overlap, start), min(start + size, len(ids) - 1)
        kept = max(stop - choices.overlap, 0) - max(start - choices.overlap, 0)
        tokens, targets = ids[start - before : stop], ids[start - before + 1 : stop + 1]
        weights = np.full(len(tokens), 1 / choices.targets, np.float32)
        if not choices.learn_overlap:
            weights[:before] = 0
        if choices.state == "reset":
            state, kept = init_state(CONFIG, 1), 0
        logp, state, grads = _gradient(flat, tokens, targets, weights, state, kept)
        scores.append(logp[before:])
        gathered.append(grads)
        if len(gathered) == choices.update_every:
            mean = jax.tree.map(lambda *g: sum(g) / len(g), *gathered)
            flat = jax.tree.map(lambda x, g: x - SGD.learning_rate * g, flat, mean)
            gathered = []
    return np.concatenate(scores)


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"update_every": 2}, 25),
        ({"overlap": 10, "learn_overlap": True}, 17),
        pytest.param({"overlap": 3, "state": "reset"}, 17, marks=pytest.mark.slow),
    ],
    ids=["carry", "overlap", "windows"],
)
def test_it_is_the_definition(changes, length):
    choices, ids = dataclasses.replace(PLAIN, **changes), ids_of(length)
    expected = by_definition(choices, ids)
    learner = Learner(language_model(), choices)
    np.testing.assert_allclose(log_probs(learner, ids), expected, atol=5e-5)
    assert int(learner.streams.version[0]) == length // 8 // choices.update_every
    static, later = language_model().score(ids.tolist()), 8 * choices.update_every
    if choices.state == "carry":
        np.testing.assert_allclose(static[:later], expected[:later], atol=5e-5)
    assert np.abs(static[later:] - expected[later:]).max() > 1e-3


HELD = {
    "kl": {"retain": RetainConfig(method="kl", weight=2.0)},
    "cloned": {"replay": ReplayConfig(rows=1, capacity=1, weight=2.0, targets="checkpoint")},
    "l2-sp": {"retain": RetainConfig(method="l2-sp", weight=0.5)},
    "ewc": {"retain": RetainConfig(method="ewc", weight=0.5)},
    "root-ewc": {"retain": RetainConfig(method="root-ewc", weight=0.05)},
}


@functools.partial(jax.jit, static_argnums=(5, 6))
def _held_gradient(flat, flat_g, tokens, earlier, fisher, method: str, weight: float):
    """(log-probabilities, gradient) of the segment of the last 8 of `tokens` and of what holds."""

    def logp_of(flat, tokens):
        logits, _ = from_flat_params(CONFIG, flat)(tokens[None, :-1], None)
        return jax.nn.log_softmax(logits[0])

    def kl(flat, tokens):
        mine, theirs = logp_of(flat, tokens)[-8:], logp_of(flat_g, tokens)[-8:]
        return jnp.mean(jnp.sum(jnp.exp(theirs) * (theirs - mine), -1))

    def loss(flat):
        logp = jnp.take_along_axis(logp_of(flat, tokens), tokens[1:, None], 1)[-8:, 0]
        if method == "kl":
            held = kl(flat, tokens)
        elif method == "cloned":
            held = kl(flat, earlier)
        else:
            parts = [jnp.sum(fisher[n] * jnp.square(x - flat_g[n])) for n, x in flat.items()]
            held = sum(parts)
        return -jnp.mean(logp) + weight * held, logp

    grads, logp = jax.grad(loss, has_aux=True)(flat)
    return logp, grads


@pytest.mark.parametrize(
    "method",
    [
        *("kl", "ewc"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cloned", "l2-sp", "root-ewc")),
    ],
)
def test_what_holds_is_the_definition(method: str):
    """Of two segments whose gradients see 8 tokens before them and no more: windows."""
    choices = dataclasses.replace(PLAIN, state="reset", overlap=8, **HELD[method])
    ids, stats = ids_of(25), None
    flat_g = flat = flat_params(language_model().model)
    fisher = dict.fromkeys(flat, jnp.ones(()))
    if choices.needs_statistics:
        stats = statistics(choices)
        fisher = {name: 8 * x for name, x in stats.mean_square.items()}
        if method == "root-ewc":
            fisher = jax.tree.map(jnp.sqrt, fisher)
    weight = choices.replay.weight if method == "cloned" else choices.retain.weight
    expected, earlier = [], None
    for start in (0, 8, 16):
        tokens, given = ids[max(start - 8, 0) : start + 9], method
        if method == "cloned" and earlier is None:
            given = "l2-sp"  # nothing is replayed beside the first segment, where this is 0, too
        logp, grads = _held_gradient(
            flat, flat_g, tokens, tokens if earlier is None else earlier, fisher, given, weight
        )
        expected.append(logp)
        flat = jax.tree.map(lambda x, g: x - SGD.learning_rate * g, flat, grads)
        if earlier is None:
            earlier = tokens  # the buffer keeps one: the first, or another one at random
    learner = Learner(language_model(), choices, statistics=stats)
    got = log_probs(learner, ids)
    most = 16 if method == "cloned" else 24
    np.testing.assert_allclose(got[:most], np.concatenate(expected)[:most], atol=5e-5)
    free = dataclasses.replace(choices, retain=RetainConfig(), replay=ReplayConfig())
    assert np.abs(got - log_probs(Learner(language_model(), free), ids)).max() > 1e-4


def test_the_checkpoint_carries_a_state_of_its_own():
    """With the state carried, and nothing learned yet, there is no distance to the checkpoint; then
    it is that of whole texts."""
    choices = dataclasses.replace(PLAIN, retain=RetainConfig(method="kl", weight=5.0))
    learner, lm = Learner(language_model(), choices), language_model()
    ids, model = ids_of(25), from_flat_params(CONFIG, flat_params(language_model().model))
    losses = []
    for start in (0, 8):
        segment = stacked([cut(choices, ids, start, 8)])
        adapted = learner.model(0)
        losses.append(float(learner.step(segment, None).loss_S[0]))
    mine = jax.nn.log_softmax(adapted(ids[None, :16])[0][0, 8:])
    theirs = jax.nn.log_softmax(model(ids[None, :16])[0][0, 8:])
    first = -np.mean(lm.score(ids[:9].tolist()))
    np.testing.assert_allclose(losses[0], first, rtol=1e-4)
    kl = float(jnp.mean(jnp.sum(jnp.exp(theirs) * (theirs - mine), -1)))
    assert kl > 1e-5
    assert learner.streams.teacher is not None


@pytest.mark.parametrize("choices", [PLAIN, RICH], ids=["plain", "rich"])
def test_the_future_is_not_seen(choices):
    """Whatever stands from a place on, the scores before it have the same bits; so with a token
    inside of a segment and with one at its start."""
    learner = Learner(language_model(), choices)
    scores = log_probs(learner, IDS)
    for place in (5, 9, 17):
        poisoned = IDS.copy()
        poisoned[place:] = 255 - IDS[place:]
        other = log_probs(learner, poisoned)
        np.testing.assert_array_equal(other[: place - 1], scores[: place - 1])
        assert np.abs(other[place - 1 :] - scores[place - 1 :]).min() > 0


def test_static_scoring_is_that_of_the_language_model():
    static = dataclasses.replace(PLAIN, overlap=3).static()
    scores = log_probs(Learner(language_model(), static), IDS)
    np.testing.assert_allclose(scores, language_model().score(IDS.tolist()), atol=2e-5)


def test_a_loss_that_is_not_finite_gives_the_last_good_parameters_back():
    """The first update ruins the parameters, the second segment shows it; the other stream, and
    what was scored before, are not touched."""
    broken = OptimizerConfig(algorithm="sgd", learning_rate=1e30)
    learner = Learner(language_model(), dataclasses.replace(PLAIN, optimizer=broken), count=3)
    idle = nothing(PLAIN)
    for start, first in ((0, False), (8, True), (16, True)):
        segment = cut(PLAIN, IDS, start, min(8, 20 - start))
        scored = learner.step(stacked([segment, idle, idle]), None)
        assert np.asarray(scored.stopped_S).tolist() == [first, False, False]
        if start == 0:
            assert not np.allclose(learner.adapted(0)["final_norm/scale"], 0, atol=1e3)
    for row in range(3):
        for name, x in flat_params(language_model().model).items():
            np.testing.assert_array_equal(learner.adapted(row)[name], x)
    assert learner.streams.version.tolist() == [0, 0, 0]
    state = learner.streams.state
    assert state is not None
    assert state.position_B.tolist() == [8, 0, 0]  # as it stood after the last good segment
    learner.restart(np.array([True, False, False]))
    assert not bool(learner.streams.stopped.any())


def test_a_stream_without_targets_learns_nothing():
    """Not even by the momentum of Adam, nor of what is replayed."""
    learner = Learner(language_model(), RICH)
    run(learner, [IDS])
    before, beside = learner.arrays(), stacked([replayed(RICH, [IDS[:9]])])
    learner.step(stacked([nothing(RICH)]), beside)
    for name, x in learner.arrays().items():
        np.testing.assert_array_equal(x, before[name])
