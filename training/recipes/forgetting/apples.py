# SPDX-License-Identifier: Apache-2.0
"""AppleRetrieval of 2402.02868 (appendix A.2): a walk to an apple and back home, learned by
REINFORCE from a policy that knows the way back alone.

Phase 1 leads from 0 to M, phase 2 back to 0; a step towards the end of its phase earns 1, a step
away -1; an episode has at most 100 steps. The agent sees -c in phase 1 and c in phase 2, goes right
with probability sigmoid(w o + b), and so shares both parameters between the phases: CLOSE is phase
1, FAR is phase 2. With known=CLOSE it knows the way there instead. What it knows of phase 2 lies in
the bias where c is small, |b / w| = 1 / c, and phase 1 unlearns it.

    taught = teach(walk, key)              # the known phase alone, from zero
    curves = retrieve(walk, key)           # the whole task: success, P(correct in FAR), by update

The paper prints neither learning rate nor batch; here the gradient is the sum over an episode of
score x reward-to-go, undiscounted, without a baseline, a mean over 32 episodes. An observation has
one value in each phase, so that a gradient is one number a phase. The floats may be traced.
Legend: E episodes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eval.dynamic.retention import categorical_kl, distance

CLOSE, FAR = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk:
    """bc, ks, ewc, l2: weights of what holds the policy; ks falls by ks_decay an update."""

    c: float
    apple: float
    """M, a whole number."""
    taught: bool = True
    """One phase, before; else from zero."""
    known: int = FAR
    """The phase that is taught: FAR, or CLOSE, which is needed first."""
    bc: float = 0.0
    ks: float = 0.0
    ks_decay: float = 0.998
    ewc: float = 0.0
    l2: float = 0.0
    learning_rate: float = 2e-3
    teaching: int = 1500
    """Updates of that phase alone."""
    updates: int = 1500
    episodes: int = 32
    longest: int = 100
    measured: int = 30


class Policy(NamedTuple):
    """p(right | o) = sigmoid(w o + b)."""

    w: jax.Array
    b: jax.Array

    def logits(self, c: Any) -> jax.Array:
        """Of right in CLOSE and in FAR, [2]."""
        return jnp.stack([self.b - self.w * c, self.b + self.w * c])


class Episodes(NamedTuple):
    """Gradient of the mean return with respect to the two logits, [2]; steps in each phase, [2];
    the share of episodes that came home."""

    gradient: jax.Array
    steps: jax.Array
    success: jax.Array


def walk_episodes(
    walk: Walk, policy: Policy, key: jax.Array, *, phase: int, alone: bool = False
) -> Episodes:
    """`episodes` of them, from the beginning of a phase; alone: to its end."""
    p_2 = jax.nn.sigmoid(policy.logits(walk.c))
    count = walk.episodes
    place = jnp.full(count, 0.0 if phase == CLOSE else walk.apple)
    zeros = jnp.zeros((count, 2))
    start = (place, jnp.full(count, phase == FAR), jnp.zeros(count, bool), jnp.zeros(count),
             zeros, zeros, zeros)  # fmt: skip

    def step(carried: Any, one_key: jax.Array) -> tuple[Any, None]:
        place, far, home, earned, score, earlier, steps = carried
        p = jnp.where(far, p_2[FAR], p_2[CLOSE])
        right = jax.random.uniform(one_key, (count,)) < p
        going = jnp.where(home, 0.0, 1.0)
        phases = jax.nn.one_hot(far.astype(jnp.int32), 2) * going[:, None]
        scored = phases * (jnp.where(right, 1.0, 0.0) - p)[:, None]
        score, earlier = score + scored, earlier + scored * earned[:, None]
        correct = right != far
        earned = earned + going * jnp.where(correct, 1.0, -1.0)
        place = place + going * jnp.where(right, 1.0, -1.0)
        home = home | (far & (place <= 0))
        far = far | (place >= walk.apple)
        home = home | (far & alone & (phase == CLOSE))
        return (place, far, home, earned, score, earlier, steps + phases), None

    carried, _ = jax.lax.scan(step, start, jax.random.split(key, walk.longest))
    _, _, home, earned, score, earlier, steps = carried
    # sum of score x (all that is earned - what was earned before)
    gradient = score * earned[:, None] - earlier
    return Episodes(gradient.mean(0), steps.mean(0), home.mean())


def moved(walk: Walk, policy: Policy, gradient_2: jax.Array) -> Policy:
    """A step along the gradient of the return, by the chain rule from the logits."""
    down = jax.grad(lambda p: -jnp.sum(p.logits(walk.c) * gradient_2))(policy)
    return jax.tree.map(lambda x, g: x - walk.learning_rate * g, policy, down)


def teach(walk: Walk, key: jax.Array) -> Policy:
    """The known phase alone, from zero."""

    def update(policy: Policy, one_key: jax.Array) -> tuple[Policy, None]:
        episodes = walk_episodes(walk, policy, one_key, phase=walk.known, alone=True)
        return moved(walk, policy, episodes.gradient), None

    zero = Policy(jnp.zeros(()), jnp.zeros(()))
    return jax.lax.scan(update, zero, jax.random.split(key, walk.teaching))[0]


def retrieve(walk: Walk, key: jax.Array) -> dict[str, jax.Array]:
    """Fine-tuning on the whole task. By measurement, [measured]: `success`, and the probability of
    the right direction in CLOSE (`close`) and in FAR (`far`), means over the updates between; and
    before: `taught`, that of the known phase."""
    teach_key, key = jax.random.split(key)
    teacher = teach(walk, teach_key)
    if not walk.taught:
        teacher = jax.tree.map(jnp.zeros_like, teacher)
    teacher_2 = teacher.logits(walk.c)
    p = jax.nn.sigmoid(teacher_2[walk.known])
    fisher = Policy(p * (1 - p) * walk.c**2, p * (1 - p))  # of the states of the known phase

    def held(policy: Policy, steps_2: jax.Array, number: jax.Array) -> jax.Array:
        kl_2 = categorical_kl(_two(teacher_2), _two(policy.logits(walk.c)))
        met_2 = steps_2 / jnp.sum(steps_2)
        falling = walk.ks_decay ** number.astype(jnp.float32)
        return (
            walk.bc * kl_2[walk.known]
            + walk.ks * falling * jnp.sum(met_2 * kl_2)
            + walk.ewc * distance(policy, teacher, fisher)
            + walk.l2 * distance(policy, teacher)
        )

    def update(policy: Policy, given: tuple[jax.Array, jax.Array]) -> tuple[Policy, Any]:
        one_key, number = given
        episodes = walk_episodes(walk, policy, one_key, phase=CLOSE)
        pull = jax.grad(held)(policy, episodes.steps, number)
        after = moved(walk, policy, episodes.gradient)
        after = jax.tree.map(lambda x, g: x - walk.learning_rate * g, after, pull)
        right_2 = jax.nn.sigmoid(policy.logits(walk.c))
        return after, (episodes.success, right_2[CLOSE], 1 - right_2[FAR])

    numbers = jnp.arange(walk.updates)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    _, logged = jax.lax.scan(update, teacher, (keys, numbers))
    curves = {
        name: values.reshape(walk.measured, -1).mean(1)
        for name, values in zip(("success", "close", "far"), logged, strict=True)
    }
    return curves | {"taught": p if walk.known == CLOSE else 1 - p}


def _two(logit_2: jax.Array) -> jax.Array:
    """Logits of right and of left, [2, 2]."""
    return jnp.stack([logit_2, jnp.zeros(2)], -1)
