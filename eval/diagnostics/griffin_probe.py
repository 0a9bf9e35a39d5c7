# SPDX-License-Identifier: Apache-2.0
"""The plasticity probe of a Griffin: random next tokens, or text of another domain.

learn = learner(graphdef, tx, steps=100, batch_size=8)
loss, losses_K = learn(params, random_tokens(rows, vocab_size, key), rows_to_score, key)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from eval.diagnostics.probe import fit, rows_task
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss

Learn = Callable[[Any, Batch, Batch, jax.Array], tuple[jax.Array, jax.Array]]


class ProbeOptimizer(NamedTuple):
    """Adam at a constant rate, gradients clipped: as the model was trained, where that is known."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0

    def make(self) -> optax.GradientTransformation:
        adam = optax.adam(self.learning_rate, b1=self.beta1, b2=self.beta2, eps=self.eps)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam)


def learner(
    graphdef: nnx.GraphDef[Griffin],
    tx: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
) -> Learn:
    """(params, rows, scored, key) -> nats per target of the rows `scored` after so many steps on
    the others, and of each step's batch. One program for the model and for a fresh one."""

    @jax.jit
    def learn(params: Any, rows: Batch, scored: Batch, key: jax.Array) -> Any:
        def mean_loss(params: Any, batch: Batch) -> jax.Array:
            return next_token_loss(nnx.merge(graphdef, params), batch)[0]

        count = rows.tokens_BT.shape[0]
        task = rows_task(mean_loss, rows, batch_size=batch_size, count=count)
        learned, losses_K = fit(params, task.loss, tx, steps=steps, key=key)
        return mean_loss(learned, scored), losses_K

    return learn


def random_tokens(rows: Batch, vocab_size: int, key: jax.Array) -> Batch:
    """The rows with targets drawn evenly from the vocabulary: nothing but learning them by heart
    gets below log(vocab_size). Padding stays out."""
    shape = rows.targets_BT.shape
    targets_BT = jax.random.randint(key, shape, 0, vocab_size, jnp.int32)
    weights_BT = (jnp.asarray(rows.positions_BT) >= 0).astype(jnp.float32)
    tokens_BT, positions_BT = jnp.asarray(rows.tokens_BT), jnp.asarray(rows.positions_BT)
    return Batch(tokens_BT, targets_BT, weights_BT, positions_BT)


def float32(params: Any) -> Any:
    """Parameters to learn with: Adam's updates are lost in bfloat16."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)
