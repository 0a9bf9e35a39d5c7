# SPDX-License-Identifier: Apache-2.0
"""Retention losses: what holds a policy, or a language model, to what it could do before.

    total = loss + weight.at(step) * categorical_kl(teacher_logits_BV, logits_BV).mean()
    total = loss + weight.at(step) * distance(params, start, fisher)

As "Fine-tuning Reinforcement Learning Models is Secretly a Forgetting Mitigation Problem" (arXiv
2402.02868, section 2 and appendix C) has them, pure functions of arrays and trees:

    BC   behavioural cloning: KL(teacher || learner) on stored states
    KS   kickstarting: the same on states that the learner meets, its weight falling to a floor
    EWC  sum_i F_i (theta_i - theta*_i)^2, F the diagonal Fisher of the teacher; without a 1/2
    L2   the same with F = 1; and with the root of F, whose update is Krause et al.'s decay

The KL has the teacher first, as the authors' code has it for both (the appendix prints the other
order for BC). What is stored and replayed (EM) needs no loss. Teacher and learner of recurrent
models carry states of their own. Which states a divergence is of is the caller's affair; so are
heads that are no part of the policy, which none of these may hold (paper, section 2).

Legend: B batch, N examples, A actions or tokens, D dimensions of a continuous action.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrentgemma.errors import UserError

LEAST_FISHER = 1e-5  # of an example, for a normal policy: the paper's code clips there
NEAR_ZERO = 1e-6  # added to a variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """Of a retention loss: start * decay^step, and not below the floor. The paper's for KS: decay
    0.99998 a step."""

    start: float
    decay: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.start:
            raise UserError(
                f"a weight from {self.start} down to {self.floor}: expected 0 <= floor <= start"
            )
        if not 0 < self.decay <= 1:
            raise UserError(f"decay={self.decay}: expected above 0, and at most 1")

    def at(self, step: Any) -> Any:
        """After so many steps, which may be traced."""
        power = jnp.power(self.decay, jnp.asarray(step, jnp.float32))
        return jnp.maximum(self.start * power, self.floor)


def categorical_kl(teacher_BA: jax.Array, learner_BA: jax.Array) -> jax.Array:
    """KL(teacher || learner) from logits, [B]. The teacher's gets no gradient."""
    teacher_BA = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_BA))
    learner_BA = jax.nn.log_softmax(learner_BA)
    return jnp.sum(jnp.exp(teacher_BA) * (teacher_BA - learner_BA), -1)


def normal_kl(
    teacher: tuple[jax.Array, jax.Array], learner: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """KL(teacher || learner) of independent normals, each (location, scale) [B, D]; [B]. A tanh
    behind both changes nothing."""
    (loc_BD, scale_BD), (new_loc_BD, new_scale_BD) = jax.lax.stop_gradient(teacher), learner
    second_moment_BD = (jnp.square(scale_BD) + jnp.square(loc_BD - new_loc_BD)) / 2
    kl_BD = jnp.log(new_scale_BD / scale_BD) + second_moment_BD / jnp.square(new_scale_BD) - 0.5
    return jnp.sum(kl_BD, -1)


def distance(params: Any, start: Any, fisher: Any = None) -> jax.Array:
    """Sum over all parameters of F (theta - theta*)^2, float32; F is 1 where there is none.

    Leave parameters that are not to be held out of all three trees.
    """

    def of(x: jax.Array, x0: jax.Array, f: Any) -> jax.Array:
        return jnp.sum(f * jnp.square(x.astype(jnp.float32) - x0.astype(jnp.float32)))

    ones = jax.tree.map(lambda _: 1.0, params)
    parts = jax.tree.map(of, params, start, ones if fisher is None else fisher)
    return sum(jax.tree.leaves(parts), jnp.zeros((), jnp.float32))


def root(fisher: Any) -> Any:
    """sqrt F of every parameter."""
    return jax.tree.map(jnp.sqrt, fisher)


def categorical_fisher(
    logits_of: Callable[[Any, Any], jax.Array],
    params: Any,
    inputs_N: Any,
    *,
    actions_N: jax.Array | None = None,
    key: jax.Array | None = None,
) -> Any:
    """The diagonal Fisher of a policy over actions: the mean over N inputs of the squared gradient
    of log pi(a | s), by parameter.

    Args:
      logits_of: (params, one input) -> logits [A].
      inputs_N: arrays with a first axis of N, one after another in memory's terms.
      actions_N: those of the data: the empirical Fisher.
      key: draw one action of each input from the policy: the true Fisher on average. With neither,
        the true Fisher by a sum over all actions, which costs A gradients an input.
    Raises UserError: both are given.
    """
    if actions_N is not None and key is not None:
        raise UserError("actions of the data, or a key to draw them with: give one of them")
    count = len(jax.tree.leaves(inputs_N)[0])

    def squared(one: Any, action: jax.Array) -> Any:
        gradient = jax.grad(lambda p: jax.nn.log_softmax(logits_of(p, one))[action])(params)
        return jax.tree.map(jnp.square, gradient)

    def of_one(given: tuple[Any, Any]) -> Any:
        one, drawn = given
        if actions_N is not None:
            return squared(one, drawn)
        logits_A = logits_of(params, one)
        if key is not None:
            return squared(one, jax.random.categorical(jax.random.fold_in(key, drawn), logits_A))
        every_A = jnp.arange(len(logits_A))
        squares = jax.lax.map(lambda action: squared(one, action), every_A)
        p_A = jax.nn.softmax(logits_A)
        return jax.tree.map(lambda x: jnp.tensordot(p_A, x, 1), squares)

    return _mean(of_one, params, (inputs_N, jnp.arange(count) if actions_N is None else actions_N))


def normal_fisher(
    policy_of: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    params: Any,
    inputs_N: Any,
    *,
    least: float = LEAST_FISHER,
) -> Any:
    """The diagonal Fisher of a normal policy, in closed form: the mean over N inputs of
    sum_k ((d loc_k / d theta)^2 + 2 (d scale_k / d theta)^2) / scale_k^2, each input's at `least`.

    policy_of: (params, one input) -> (location, scale), [D] each.
    """

    def of_one(one: Any) -> Any:
        scale_D = policy_of(params, one)[1]
        variance_D = jnp.square(scale_D) + NEAR_ZERO
        loc, scale = jax.jacrev(lambda p: policy_of(p, one))(params)

        def summed(dloc: jax.Array, dscale: jax.Array) -> jax.Array:
            squares = jnp.square(dloc) + 2 * jnp.square(dscale)
            return jnp.maximum(jnp.tensordot(1 / variance_D, squares, 1), least)

        return jax.tree.map(summed, loc, scale)

    return _mean(of_one, params, inputs_N)


def _mean(of_one: Callable[[Any], Any], params: Any, inputs_N: Any) -> Any:
    """The mean of trees like the parameters, of which one is held at a time."""
    count = len(jax.tree.leaves(inputs_N)[0])

    def add(sums: Any, one: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda s, x: s + x / count, sums, of_one(one)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
    return jax.lax.scan(add, zeros, inputs_N)[0]
