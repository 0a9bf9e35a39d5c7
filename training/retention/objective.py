# SPDX-License-Identifier: Apache-2.0
"""The retention losses of a Griffin in training, which a step adds to its own.

    kl       mean KL(teacher || learner) of next tokens, on rows of what is to be retained (BC of
             arXiv 2402.02868), or on the rows that are learned from (KS): two passes in one
    replay   the mean loss of rows of what is to be retained (EM)
    ewc      sum_i F_i (theta_i - theta*_i)^2, F per token (fisher.py)
    l2-sp    sum_i (theta_i - theta*_i)^2 (arXiv 1802.01483)
    l2       sum_i theta_i^2

The teacher is the checkpoint that training started from, theta* its parameters. By LoRA it is the
model without its adapters, and theta - theta* of an adapted weight is the product of its adapters,
so that neither needs memory; l2 is then of the adapters themselves. Means are over targets of
weight above 0. Teacher and learner carry a state each (Carried) where documents go on from row to
row; rows of what is to be retained begin with an empty state.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from eval.dynamic.retention import distance
from recurrentgemma import parallel, sharding
from recurrentgemma.adapters import A, B
from recurrentgemma.divergence import hidden_divergence
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, batch_loss, loss_and_state
from recurrentgemma.params import by_path
from recurrentgemma.state import State
from training.retention.config import RetainConfig


class Kept(NamedTuple):
    """What a step is given beside its batch; () is what it does without."""

    batch: Any = ()  # Batch: rows of what is to be retained
    start: Any = ()  # the parameters before the first step
    fisher: Any = ()  # of those that `distances` gives, by the same names


class Carried(NamedTuple):
    """The states of learner and teacher after the last batch."""

    learner: State
    teacher: State


@dataclasses.dataclass(frozen=True)
class Retention:
    """teacher: the structure of the checkpoint's model, without adapters. scale: by LoRA, alpha /
    rank; 0: every parameter is trained."""

    config: RetainConfig
    teacher: nnx.GraphDef[Griffin]
    scale: float = 0.0

    def weight(self, updates: jax.Array) -> jax.Array:
        """Of the retention loss, after so many updates of the parameters."""
        return jnp.asarray(self.config.schedule.at(updates), jnp.float32)

    def divergence(
        self, model: Griffin, x_BTD: jax.Array, teacher: Any, batch: Batch, state: State | None
    ) -> tuple[jax.Array, State]:
        """The mean over the counted targets, and the teacher's new state."""
        other = nnx.merge(self.teacher, jax.lax.stop_gradient(teacher))
        theirs_BTD, state = other.hidden(
            batch.tokens_BT, jax.lax.stop_gradient(state), positions=batch.positions_BT
        )
        count = _over_tokens(jnp.sum(batch.weights_BT))
        weights_BT = batch.weights_BT / jnp.maximum(count, 1)
        kl, _ = hidden_divergence(model, x_BTD, other, theirs_BTD, weights_BT)
        return _over_tokens(kl), state

    def of_parameters(self, params: Any, kept: Kept) -> jax.Array:
        """ewc, l2-sp or l2."""
        if self.config.method == "l2":
            return distance(params, jax.tree.map(jnp.zeros_like, params))
        fisher = by_path(kept.fisher) if self.config.method == "ewc" else None
        if self.scale:
            moved = products(by_path(params), self.scale)
            if fisher is not None:
                fisher = {name: fisher[name] for name in moved}
            return distance(moved, jax.tree.map(jnp.zeros_like, moved), fisher)
        return distance(by_path(params), by_path(kept.start), fisher)


class OfRows(NamedTuple):
    """kl or replay on rows of what is to be retained: see training/objective.py."""

    retention: Retention
    compares: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset({"tokens"})

    def count(self, batch: Batch) -> jax.Array:
        return _over_tokens(jnp.sum(batch.weights_BT))

    def __call__(
        self, model: Griffin, teacher: Any, batch: Batch, carried: None, weight: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], None]]:
        if self.retention.config.method == "replay":
            loss, (metrics, _) = loss_and_state(model, batch, None)
            return loss, ({"tokens": metrics["tokens"]}, None)
        x_BTD, _ = model.hidden(batch.tokens_BT, positions=batch.positions_BT)
        loss, _ = self.retention.divergence(model, x_BTD, teacher, batch, None)
        return loss, ({"tokens": self.count(batch)}, None)


class Kickstarted(NamedTuple):
    """Next tokens plus weight times kl on the same rows, which the learner reads once: see
    training/objective.py."""

    retention: Retention
    z_loss: float = 0.0
    compares: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset({"nll", "log_z", "tokens", "retention"})

    def count(self, batch: Batch) -> jax.Array:
        return _over_tokens(jnp.sum(batch.weights_BT))

    def __call__(
        self,
        model: Griffin,
        teacher: Any,
        batch: Batch,
        carried: Carried | None,
        weight: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Carried | None]]:
        before, theirs = (None, None) if carried is None else carried
        before = jax.lax.stop_gradient(before)
        x_BTD, state = model.hidden(batch.tokens_BT, before, positions=batch.positions_BT)
        loss, metrics = batch_loss(model, x_BTD, batch, z_loss=self.z_loss)
        kl, their_state = self.retention.divergence(model, x_BTD, teacher, batch, theirs)
        metrics["retention"] = kl
        after = None if carried is None else Carried(state, their_state)
        return loss + weight * kl, (metrics, jax.lax.stop_gradient(after))


def products(adapters: dict[str, jax.Array], scale: float) -> dict[str, jax.Array]:
    """What adapters add to their weights [..., J, I], by the weight's path."""
    halves = {path.removesuffix(A).removesuffix(B) for path in adapters}
    return {
        f"{half}weight": scale * jnp.swapaxes(adapters[half + A] @ adapters[half + B], -1, -2)
        for half in sorted(halves)
    }


def _over_tokens(x: jax.Array) -> jax.Array:
    return parallel.all_reduce(x, *sharding.TOKEN_AXES)
