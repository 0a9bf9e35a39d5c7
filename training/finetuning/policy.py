# SPDX-License-Identifier: Apache-2.0
"""What a policy makes of the rows of a rollout: of every token of the answers its log-probability,
the entropy, the final features and, with a value head, what is still to come.

    judge = Judge(graphdef, vocab_size=tokenizer.vocab_size, answer=64)
    judged = judge(trained, frozen, rollout)                  # inside of jax.jit

`trained` is {"policy": nnx.State} and for PPO {"value": {"weight_D", "bias"}} beside it. The head
goes through the tokens in chunks and is computed again for the gradients, so that the logits of all
tokens are never held. Legend: B answers, T tokens of a row, A tokens of an answer, D width, V
vocabulary, M tokens in line.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kernels import platform
from recurrentgemma.griffin import Griffin
from recurrentgemma.head import capped_logits
from recurrentgemma.losses import CHUNK_ELEMENTS, MIN_CHUNK_TOKENS
from training.finetuning.rollout import Rollout


class Judged(NamedTuple):
    """Of the tokens of answers; meaningless behind their end (real_tokens)."""

    log_prob_BA: jax.Array
    entropy_BA: jax.Array
    features_BAD: jax.Array  # what the output head reads, float32
    value_BA: jax.Array  # 0 without a value head
    norm_BA: jax.Array  # L2, of what the final norm reads: the pre-activation of the features


class Judge:
    """vocab_size: the ids that may be drawn. answer: A."""

    def __init__(self, graphdef: nnx.GraphDef[Griffin], *, vocab_size: int, answer: int) -> None:
        self._graphdef, self._vocab_size, self._answer = graphdef, vocab_size, answer

    def __call__(self, trained: Any, frozen: Any, rollout: Rollout) -> Judged:
        """Each row is read from an empty state, and what follows its answer is padding."""
        model = nnx.merge(self._graphdef, trained["policy"], *([frozen] if frozen else []))
        tapped = _Tapped(model.final_norm)
        model.final_norm = tapped  # type: ignore[assignment]
        lengths_B = rollout.prompt_B + rollout.answer_B
        x_BTD, _ = model.hidden(rollout.tokens_BT, lengths=lengths_B)
        place_BA = rollout.prompt_B[:, None] + jnp.arange(self._answer, dtype=jnp.int32)[None]
        place_BA = jnp.minimum(place_BA, rollout.tokens_BT.shape[1] - 1)
        # The token before an answer's token is where it is predicted.
        before_BA1 = (place_BA - 1)[..., None]
        x_BAD = jnp.take_along_axis(x_BTD, before_BA1, 1)
        targets_BA = jnp.take_along_axis(rollout.tokens_BT, place_BA, 1)
        table_VD = model.embedder.table(x_BAD.dtype)[: self._vocab_size]
        log_prob_M, entropy_M = log_probs_and_entropies(
            x_BAD.reshape(-1, x_BAD.shape[-1]),
            table_VD,
            targets_BA.reshape(-1),
            soft_cap=model.config.logits_soft_cap,
        )
        features_BAD = x_BAD.astype(jnp.float32)
        value_BA = jnp.zeros(targets_BA.shape)
        if "value" in trained:
            head = trained["value"]
            value_BA = jnp.einsum("bad,d->ba", features_BAD, head["weight_D"]) + head["bias"]
        norm_BT = jnp.linalg.norm(tapped.seen_BTD.astype(jnp.float32), axis=-1)
        return Judged(
            log_prob_M.reshape(targets_BA.shape),
            entropy_M.reshape(targets_BA.shape),
            features_BAD,
            value_BA,
            jnp.take_along_axis(norm_BT, before_BA1[..., 0], 1),
        )


def value_head(width: int) -> dict[str, jax.Array]:
    """One that begins with 0 everywhere."""
    return {"weight_D": jnp.zeros(width), "bias": jnp.zeros(())}


def real_tokens(rollout: Rollout) -> jax.Array:
    """Bool [B, A]: which tokens of log_prob_BA an answer has."""
    tokens = rollout.log_prob_BA.shape[1]
    return jnp.arange(tokens, dtype=jnp.int32)[None] < rollout.answer_B[:, None]


def log_probs_and_entropies(
    x_MD: jax.Array, table_VD: jax.Array, targets_M: jax.Array, *, soft_cap: float | None
) -> tuple[jax.Array, jax.Array]:
    """log p(target), and the entropy of p, [M], with gradients."""
    tokens, here = targets_M.shape[0], platform.current()
    size = min(tokens, max(CHUNK_ELEMENTS[here] // table_VD.shape[0], MIN_CHUNK_TOKENS[here]))

    @jax.checkpoint
    def one(
        x_CD: jax.Array, table_VD: jax.Array, targets_C: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        log_p_CV = jax.nn.log_softmax(capped_logits(x_CD, table_VD.astype(x_CD.dtype), soft_cap))
        log_p_C = jnp.take_along_axis(log_p_CV, targets_C[:, None], 1)[:, 0]
        return log_p_C, -jnp.sum(jnp.exp(log_p_CV) * log_p_CV, -1)

    if size == tokens:
        return one(x_MD, table_VD, targets_M)
    count = -(-tokens // size)
    grow = count * size - tokens
    x_NCD = jnp.pad(x_MD, ((0, grow), (0, 0))).reshape(count, size, -1)
    targets_NC = jnp.pad(targets_M, (0, grow)).reshape(count, size)
    both = jax.lax.map(lambda chunk: one(chunk[0], table_VD, chunk[1]), (x_NCD, targets_NC))
    log_prob_M, entropy_M = (y.reshape(-1)[:tokens] for y in both)
    return log_prob_M, entropy_M


class _Tapped:
    """A norm that keeps what it has read."""

    def __init__(self, norm: Any) -> None:
        self._norm = norm
        self.seen_BTD: Any = None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        self.seen_BTD = x_BTD
        return self._norm(x_BTD)
