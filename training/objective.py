# SPDX-License-Identifier: Apache-2.0
"""What a training step minimises, as a value: next tokens, or whatever else is read off rows."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from recurrentgemma import parallel, sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, loss_and_state

Metrics = dict[str, Any]


class Objective(Protocol):
    """Hashable: a step is compiled for one."""

    @property
    def names(self) -> frozenset[str]:
        """Of its metrics: `nll`, which is shown as the loss, `tokens`, and others."""
        ...

    @property
    def compares(self) -> bool:
        """Whether it reads the checkpoint that training started from, as the `teacher`."""
        ...

    def count(self, batch: Any) -> jax.Array:
        """What a part of a batch weighs in the mean over all of it, of all devices."""
        ...

    def __call__(
        self, model: Griffin, teacher: Any, batch: Any, carried: Any, weight: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """(loss, (metrics, the carried state after it)), means over the batch of all devices.
        teacher: its parameters. weight: of what is retained."""
        ...


class NextTokens(NamedTuple):
    """The mean negative log-likelihood of the targets, and z_loss log(Z)^2."""

    z_loss: float = 0.0
    compares: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset({"nll", "log_z", "tokens"})

    def count(self, batch: Batch) -> jax.Array:
        return parallel.all_reduce(jnp.sum(batch.weights_BT), *sharding.TOKEN_AXES)

    def __call__(
        self, model: Griffin, teacher: Any, batch: Batch, carried: Any, weight: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        loss, (metrics, state) = loss_and_state(model, batch, carried, z_loss=self.z_loss)
        return loss, (metrics, None if carried is None else state)
