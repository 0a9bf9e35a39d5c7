# SPDX-License-Identifier: Apache-2.0
"""Token log-likelihood and its mean, without ever holding the logits of all tokens.

The head runs in chunks of tokens. Where gradients are wanted each chunk makes its own at once, so
that nothing is computed twice: with weights w_t and n their sum, the loss is linear in the
log-likelihoods and its gradient with respect to the logits, w_t (p - onehot) / n, is known as soon
as the chunk's logits are. On several devices each has the head of its own tokens, and over the
tensor axis of its own part of the vocabulary: what they exchange is two numbers a token.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.dot import dot, dot_over_rows
from recurrentgemma import head, parallel, sharding, vocab_parts
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State

CHUNK_ELEMENTS = {"cpu": 2**21, "gpu": 2**28, "tpu": 2**28}  # logits held at a time: at least
MIN_CHUNK_TOKENS = {"cpu": 256, "gpu": 1024, "tpu": 1024}  # so many tokens' (docs/performance.md)


class Batch(NamedTuple):
    """What a training step sees. Weight 0 leaves a target out; position 0 starts a document."""

    tokens_BT: jax.Array
    targets_BT: jax.Array
    weights_BT: jax.Array  # float32
    positions_BT: jax.Array


def next_token_loss(
    model: Griffin, batch: Batch, *, z_loss: float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted mean negative log-likelihood of the targets, in nats per token.

    Args:
      model: the model.
      batch: tokens, targets, weights and positions.
      z_loss: coefficient of mean(log(Z)^2), added to the loss and to its gradient.

    Returns:
      the loss, and metrics: "nll" (nats per token, without the z-loss), "tokens" (sum of the
      weights) and "log_z" (mean log normaliser).
    """
    loss, (metrics, _) = loss_and_state(model, batch, None, z_loss=z_loss)
    return loss, metrics


def loss_and_state(
    model: Griffin, batch: Batch, state: State | None, *, z_loss: float = 0.0
) -> tuple[jax.Array, tuple[dict[str, jax.Array], State]]:
    """next_token_loss of rows that go on from `state` where their first position is above 0, and
    the state after them. No gradient goes into or out of the state."""
    x_BTD, state = model.hidden(
        batch.tokens_BT, jax.lax.stop_gradient(state), positions=batch.positions_BT
    )
    loss, metrics = batch_loss(model, x_BTD, batch, z_loss=z_loss)
    return loss, (metrics, jax.lax.stop_gradient(state))


def batch_loss(
    model: Griffin, x_BTD: jax.Array, batch: Batch, *, z_loss: float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """next_token_loss of what model.hidden gave."""
    tokens = parallel.all_reduce(jnp.sum(batch.weights_BT), *sharding.TOKEN_AXES)
    weights_BT = batch.weights_BT / jnp.maximum(tokens, 1)
    loss, nll_BT, log_z_BT = hidden_loss(model, x_BTD, batch.targets_BT, weights_BT, z_loss=z_loss)

    def over_tokens(x: jax.Array) -> jax.Array:
        return parallel.all_reduce(x, *sharding.TOKEN_AXES)

    metrics = {
        "nll": over_tokens(jnp.sum(nll_BT * weights_BT)),
        "tokens": tokens,
        "log_z": over_tokens(jnp.sum(log_z_BT * weights_BT)),
    }
    return over_tokens(loss), metrics


def hidden_loss(
    model: Griffin,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sum_t w_t (nll_t + z_loss log(Z_t)^2) of what model.hidden gave, over this device's tokens;
    nll_BT and log_z_BT, in nats, which carry no gradient."""
    x_MD = parallel.replicate(x_BTD.reshape(-1, x_BTD.shape[-1]), "tensor")
    targets_M, weights_M = targets_BT.reshape(-1), weights_BT.reshape(-1)
    given = (targets_M, weights_M, model.config.logits_soft_cap, z_loss)
    losses: Any
    if parallel.divided(*sharding.PARAMETER_AXES):
        elements = CHUNK_ELEMENTS[platform.current()]
        part_VP = model.embedder.input_embedding[...]
        losses = vocab_parts.weighted_loss(x_MD, part_VP, *given, elements)
    else:
        losses = _weighted_loss(x_MD, model.embedder.table(x_MD.dtype), *given)
    loss, nll_M, log_z_M = losses
    return loss, nll_M.reshape(targets_BT.shape), log_z_M.reshape(targets_BT.shape)


def token_log_probs(
    model: Griffin,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    state: State | None = None,
    *,
    positions: jax.Array | None = None,
    lengths: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """log p(target_t | tokens up to t) in nats, float32 [B, T], and the state after the chunk.

    Differentiable in nothing: for gradients use next_token_loss.
    """
    x_BTD, state = model.hidden(tokens_BT, state, positions=positions, lengths=lengths)
    nll_M, _ = _nll(
        x_BTD.reshape(-1, x_BTD.shape[-1]),
        model.embedder.table(x_BTD.dtype),
        targets_BT.reshape(-1),
        model.config.logits_soft_cap,
    )
    return -nll_M.reshape(tokens_BT.shape), state


def token_log_probs_and_likeliest(
    model: Griffin,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    state: State | None = None,
    *,
    positions: jax.Array | None = None,
    lengths: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], State]:
    """token_log_probs, and beside them whether no token is likelier than the target: whether greedy
    decoding would give it, bool [B, T]."""
    x_BTD, state = model.hidden(tokens_BT, state, positions=positions, lengths=lengths)
    embedding_VD = model.embedder.table(x_BTD.dtype).astype(x_BTD.dtype)
    x_MD, targets_M = x_BTD.reshape(-1, x_BTD.shape[-1]), targets_BT.reshape(-1)

    def one(chunk):
        x_MD, targets_M = chunk
        logits_MV, nll_M, _ = _head(x_MD, embedding_VD, targets_M, model.config.logits_soft_cap)
        row_M, here_M = parallel.local_rows(targets_M, embedding_VD.shape[0])
        target_M = jnp.take_along_axis(logits_MV, row_M[:, None], 1)[:, 0]
        most_M = parallel.largest(jnp.max(logits_MV, -1), "tensor")
        likeliest_M = (here_M & (target_M == most_M)).astype(jnp.int32)
        return -nll_M, parallel.largest(likeliest_M, "tensor") > 0

    size = chunk_tokens(len(targets_M), embedding_VD.shape[0])
    logp, likeliest = jax.lax.map(one, chunks(len(targets_M), size, x_MD, targets_M))
    logp_M, likeliest_M = (y.reshape(-1)[: len(targets_M)] for y in (logp, likeliest))
    return (logp_M.reshape(tokens_BT.shape), likeliest_M.reshape(tokens_BT.shape)), state


def chunk_tokens(tokens: int, vocab_size: int) -> int:
    """Tokens whose logits are held at a time."""
    here = platform.current()
    return min(tokens, max(CHUNK_ELEMENTS[here] // vocab_size, MIN_CHUNK_TOKENS[here]))


def chunks(tokens: int, size: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [M, ...] cut into [M / size, size, ...], padded with zeros at the end."""
    count = -(-tokens // size)
    grow = count * size - tokens

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, grow), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(count, size, *x.shape[1:])

    return tuple(cut(x) for x in arrays)


def _head(x_MD, embedding_VD, targets_M, soft_cap):
    """(logits, nll, log Z) of one chunk."""
    logits_MV = head.capped_logits(x_MD, embedding_VD, soft_cap)
    log_z_M = head.log_normaliser(logits_MV, soft_cap)
    row_M, here_M = parallel.local_rows(targets_M, embedding_VD.shape[0])
    target_M = head.picked(logits_MV, row_M)
    if parallel.size("tensor") > 1:
        top_M = parallel.largest(log_z_M, "tensor")
        log_z_M = top_M + jnp.log(parallel.all_reduce(jnp.exp(log_z_M - top_M), "tensor"))
        target_M = parallel.all_reduce(jnp.where(here_M, target_M, 0), "tensor")
    return logits_MV, log_z_M - target_M, log_z_M


def _nll(x_MD, embedding_VD, targets_M, soft_cap):
    tokens = x_MD.shape[0]
    size = chunk_tokens(tokens, embedding_VD.shape[0])
    embedding_VD = embedding_VD.astype(x_MD.dtype)

    def one(chunk):
        _, nll_M, log_z_M = _head(chunk[0], embedding_VD, chunk[1], soft_cap)
        return nll_M, log_z_M

    nll, log_z = jax.lax.map(one, chunks(tokens, size, x_MD, targets_M))
    return nll.reshape(-1)[:tokens], log_z.reshape(-1)[:tokens]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _weighted_loss(x_MD, embedding_VD, targets_M, weights_M, soft_cap, z_loss):
    """sum_t w_t (nll_t + z_loss log(Z_t)^2), and nll and log Z, which carry no gradient."""
    nll_M, log_z_M = _nll(x_MD, embedding_VD, targets_M, soft_cap)
    return head.loss(nll_M, log_z_M, weights_M, z_loss), nll_M, log_z_M


def _weighted_loss_fwd(x_MD, embedding_VD, targets_M, weights_M, soft_cap, z_loss):
    tokens, vocab_size = x_MD.shape[0], embedding_VD.shape[0]
    size = chunk_tokens(tokens, vocab_size)
    cast_VD = embedding_VD.astype(x_MD.dtype)

    def one(d_embedding_VD, chunk):
        x_MD, targets_M, weights_M = chunk
        logits_MV, nll_M, log_z_M = _head(x_MD, cast_VD, targets_M, soft_cap)
        target = parallel.local_rows(targets_M, vocab_size)
        d_logits_MV = head.logit_gradients(
            logits_MV, log_z_M, weights_M, target, soft_cap, z_loss
        ).astype(x_MD.dtype)
        d_x_MD = dot(d_logits_MV, cast_VD).astype(x_MD.dtype)
        return d_embedding_VD + dot_over_rows(d_logits_MV, x_MD), (d_x_MD, nll_M, log_z_M)

    zero_VD = jnp.zeros(embedding_VD.shape, jnp.float32)
    parts = chunks(tokens, size, x_MD, targets_M, weights_M)
    if parts[0].shape[0] == 1:
        d_embedding_VD, outputs = one(zero_VD, [x[0] for x in parts])
    else:
        d_embedding_VD, outputs = jax.lax.scan(one, zero_VD, parts)
    d_x_MD = outputs[0].reshape(-1, x_MD.shape[1])[:tokens]
    nll_M, log_z_M = (y.reshape(-1)[:tokens] for y in outputs[1:])
    loss = head.loss(nll_M, log_z_M, weights_M, z_loss)
    residuals = (d_x_MD, d_embedding_VD.astype(embedding_VD.dtype), nll_M, log_z_M)
    return (loss, nll_M, log_z_M), residuals


def _weighted_loss_bwd(soft_cap, z_loss, residuals, gradients):
    return head.backward(z_loss, residuals, gradients)


_weighted_loss.defvjp(_weighted_loss_fwd, _weighted_loss_bwd)
