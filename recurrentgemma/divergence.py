# SPDX-License-Identifier: Apache-2.0
"""How far the next tokens of one Griffin are from those of another, KL(teacher || learner), without
ever holding the logits of all tokens.

As in losses.py, the gradient with respect to the learner's logits, w_t (p - p*), is known as soon
as both have them, so each part makes its own: by parts of the tokens, or where the embedding is
divided over devices by parts of the vocabulary (vocab_parts.py). The teacher gets no gradient.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.dot import dot, dot_over_rows
from recurrentgemma import head, losses, parallel, sharding, vocab_parts
from recurrentgemma.griffin import Griffin


def hidden_divergence(
    model: Griffin,
    x_BTD: jax.Array,
    teacher: Griffin,
    teacher_x_BTD: jax.Array,
    weights_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """sum_t w_t KL(teacher || model) of what the hidden method of each gave, over this device's
    tokens; and kl_BT, in nats, which carries no gradient.

    Raises ValueError: the vocabularies are of two sizes.
    """
    sizes = model.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(f"a model of {sizes[0]} tokens, and a teacher of {sizes[1]}")
    x_MD = parallel.replicate(x_BTD.reshape(-1, x_BTD.shape[-1]), "tensor")
    theirs_MD = jax.lax.stop_gradient(teacher_x_BTD).astype(x_MD.dtype)
    theirs_MD = theirs_MD.reshape(-1, theirs_MD.shape[-1])
    weights_M = weights_BT.reshape(-1)
    caps = model.config.logits_soft_cap, teacher.config.logits_soft_cap
    loss: Any
    if parallel.divided(*sharding.PARAMETER_AXES):
        elements = losses.CHUNK_ELEMENTS[platform.current()]
        own_VP, their_VP = (m.embedder.input_embedding[...] for m in (model, teacher))
        given = (x_MD, own_VP, theirs_MD, their_VP, weights_M, caps, elements)
        loss = _by_vocabulary(*given)
    else:
        own_VD, their_VD = model.embedder.table(x_MD.dtype), teacher.embedder.table(x_MD.dtype)
        loss = _by_tokens(x_MD, own_VD, theirs_MD, their_VD, weights_M, caps)
    return loss[0], loss[1].reshape(weights_BT.shape)


def _log_normaliser(logits_MV: jax.Array, soft_cap: float | None) -> jax.Array:
    """Over the whole vocabulary, which the tensor axis may divide."""
    return _over_tensor(head.log_normaliser(logits_MV, soft_cap))


def _over_tensor(log_z_M: jax.Array) -> jax.Array:
    if parallel.size("tensor") == 1:
        return log_z_M
    top_M = parallel.largest(log_z_M, "tensor")
    return top_M + jnp.log(parallel.all_reduce(jnp.exp(log_z_M - top_M), "tensor"))


def _terms(logits_MV, log_z_M, their_logits_MV, their_log_z_M, weights_M, soft_cap):
    """(kl_M over these tokens of the vocabulary, the gradient of w kl with respect to the logits
    before their soft cap)."""
    log_p_MV = logits_MV - log_z_M[:, None]
    their_log_p_MV = their_logits_MV - their_log_z_M[:, None]
    their_p_MV = jnp.exp(their_log_p_MV)
    kl_M = jnp.sum(their_p_MV * (their_log_p_MV - log_p_MV), -1)
    d_logits_MV = (jnp.exp(log_p_MV) - their_p_MV) * weights_M[:, None]
    if soft_cap is not None:
        d_logits_MV *= 1 - jnp.square(logits_MV / soft_cap)
    return kl_M, d_logits_MV


def _bwd(residuals: tuple, gradients: tuple) -> tuple:
    """Of (x, embedding, the teacher's two, weights)."""
    d_x_MD, d_embedding, kl_M = residuals

    def scaled(d: jax.Array) -> jax.Array:
        return (gradients[0] * d.astype(jnp.float32)).astype(d.dtype)

    return scaled(d_x_MD), scaled(d_embedding), None, None, gradients[0] * kl_M


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _by_tokens(x_MD, embedding_VD, theirs_MD, their_VD, weights_M, caps):
    return _by_tokens_fwd(x_MD, embedding_VD, theirs_MD, their_VD, weights_M, caps)[0]


def _by_tokens_fwd(x_MD, embedding_VD, theirs_MD, their_VD, weights_M, caps):
    tokens, vocab_size = x_MD.shape[0], embedding_VD.shape[0]
    size = losses.chunk_tokens(tokens, vocab_size)
    cast_VD, their_cast_VD = embedding_VD.astype(x_MD.dtype), their_VD.astype(x_MD.dtype)

    def one(d_embedding_VD, chunk):
        x_MD, theirs_MD, weights_M = chunk
        logits_MV = head.capped_logits(x_MD, cast_VD, caps[0])
        their_logits_MV = head.capped_logits(theirs_MD, their_cast_VD, caps[1])
        log_z_M = _log_normaliser(logits_MV, caps[0])
        their_log_z_M = _log_normaliser(their_logits_MV, caps[1])
        kl_M, d_logits_MV = _terms(
            logits_MV, log_z_M, their_logits_MV, their_log_z_M, weights_M, caps[0]
        )
        d_logits_MV = d_logits_MV.astype(x_MD.dtype)
        d_x_MD = dot(d_logits_MV, cast_VD).astype(x_MD.dtype)
        kl_M = parallel.all_reduce(kl_M, "tensor")
        return d_embedding_VD + dot_over_rows(d_logits_MV, x_MD), (d_x_MD, kl_M)

    zero_VD = jnp.zeros(embedding_VD.shape, jnp.float32)
    chunks = losses.chunks(tokens, size, x_MD, theirs_MD, weights_M)
    if chunks[0].shape[0] == 1:
        d_embedding_VD, outputs = one(zero_VD, [x[0] for x in chunks])
    else:
        d_embedding_VD, outputs = jax.lax.scan(one, zero_VD, chunks)
    d_x_MD = outputs[0].reshape(-1, x_MD.shape[1])[:tokens]
    kl_M = outputs[1].reshape(-1)[:tokens]
    residuals = (d_x_MD, d_embedding_VD.astype(embedding_VD.dtype), kl_M)
    return (jnp.sum(weights_M * kl_M), kl_M), residuals


_by_tokens.defvjp(_by_tokens_fwd, lambda caps, *given: _bwd(*given))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _by_vocabulary(x_MD, embedding_VP, theirs_MD, their_VP, weights_M, caps, elements):
    """Embeddings are this device's parts: of V over tensor, of D over fsdp and sequence."""
    given = (x_MD, embedding_VP, theirs_MD, their_VP, weights_M)
    return _by_vocabulary_fwd(*given, caps, elements)[0]


def _by_vocabulary_fwd(x_MD, embedding_VP, theirs_MD, their_VP, weights_M, caps, elements):
    parts = [vocab_parts.cut(e, x_MD.shape[0], elements) for e in (embedding_VP, their_VP)]

    def logits(pair):
        own_VD, their_VD = (vocab_parts.whole(part, x_MD.dtype) for part in pair)
        own = head.capped_logits(x_MD, own_VD, caps[0])
        return own_VD, (own, head.capped_logits(theirs_MD, their_VD, caps[1]))

    def normalise(carry, pair):
        added = [
            head.add_to_normaliser(top_M, sum_M, logits_MV, cap)
            for (top_M, sum_M), logits_MV, cap in zip(carry, logits(pair)[1], caps, strict=True)
        ]
        return added, None

    start = [head.normaliser_start(x_MD.shape[0], cap) for cap in caps]
    zero_M = start[0][1]
    sums, _ = jax.lax.scan(normalise, start, parts)
    log_z_M, their_log_z_M = (_over_tensor(top_M + jnp.log(sum_M)) for top_M, sum_M in sums)

    def add(carry, pair):
        d_x_MD, kl_M = carry
        part_VD, (logits_MV, their_logits_MV) = logits(pair)
        some_kl_M, d_logits_MV = _terms(
            logits_MV, log_z_M, their_logits_MV, their_log_z_M, weights_M, caps[0]
        )
        d_logits_MV = d_logits_MV.astype(x_MD.dtype)
        d_part_VP = vocab_parts.scatter(dot_over_rows(d_logits_MV, x_MD))
        return (d_x_MD + dot(d_logits_MV, part_VD), kl_M + some_kl_M), d_part_VP

    zero_MD = jnp.zeros(x_MD.shape, jnp.float32)
    (d_x_MD, kl_M), d_parts_NVP = jax.lax.scan(add, (zero_MD, zero_M), parts)
    kl_M = parallel.all_reduce(kl_M, "tensor")
    d_embedding_VP = d_parts_NVP.reshape(embedding_VP.shape).astype(embedding_VP.dtype)
    residuals = (d_x_MD.astype(x_MD.dtype), d_embedding_VP, kl_M)
    return (jnp.sum(weights_M * kl_M), kl_M), residuals


_by_vocabulary.defvjp(_by_vocabulary_fwd, lambda caps, elements, *given: _bwd(*given))
