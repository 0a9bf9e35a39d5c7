# SPDX-License-Identifier: Apache-2.0
"""What a Sampling changes in the logits before a token is drawn: biases, penalties, and an end that
may not come yet.

    z = logits
    z = z / r where z > 0, else z * r        for tokens of prompt and answer, r repetition_penalty
    z = z - frequency * count - presence * (count > 0)      count: how often the answer has a token
    z = z + bias
    z = -inf      for tokens that end the answer, as long as it has fewer than min_tokens

Log-probabilities that are reported stay the model's own. A row that asks for nothing keeps its
logits bit for bit.

B batch, V vocabulary, S stop tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling


class LogitChanges(NamedTuple):
    """What each row changes. Constant while it runs."""

    bias_BV: Any  # float32
    in_prompt_BV: Any  # bool, tokens of the prompt
    frequency_B: Any  # float32
    presence_B: Any  # float32
    repetition_B: Any  # float32; 1 changes nothing
    min_tokens_B: Any  # int32


def no_changes(batch_size: int, vocab_size: int) -> LogitChanges:
    """Rows that change nothing, as numpy arrays."""
    zero_B = np.zeros(batch_size, np.float32)
    return LogitChanges(
        np.zeros((batch_size, vocab_size), np.float32),
        np.zeros((batch_size, vocab_size), np.bool_),
        zero_B,
        zero_B.copy(),
        np.ones(batch_size, np.float32),
        np.zeros(batch_size, np.int32),
    )


def logit_changes(
    samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]], vocab_size: int
) -> LogitChanges | None:
    """One row for each, as numpy arrays; None where no row changes anything, which costs nothing.

    vocab_size: ids that may be drawn; a prompt may have others.
    Raises UserError: a bias of another id.
    """
    for sampling in samplings:
        for id, _ in sampling.logit_bias:
            if id >= vocab_size:
                raise UserError(
                    f"logit_bias: token {id} is outside the vocabulary of {vocab_size} "
                    f"(ids 0 to {vocab_size - 1})",
                    field="logit_bias",
                )
    if not any(sampling.changes_logits for sampling in samplings):
        return None
    changes = no_changes(len(samplings), vocab_size)
    for row, (sampling, prompt) in enumerate(zip(samplings, prompts, strict=True)):
        for id, bias in sampling.logit_bias:
            changes.bias_BV[row, id] = bias
        if sampling.repetition_penalty != 1:
            ids_T = np.asarray(prompt, np.int64)
            changes.in_prompt_BV[row, ids_T[ids_T < vocab_size]] = True
        changes.frequency_B[row] = sampling.frequency_penalty
        changes.presence_B[row] = sampling.presence_penalty
        changes.repetition_B[row] = sampling.repetition_penalty
        changes.min_tokens_B[row] = sampling.min_tokens
    return changes


def changed(
    logits_BV: jax.Array,
    changes: LogitChanges,
    counts_BV: jax.Array,
    generated_B: jax.Array,
    stop_BS: jax.Array,
) -> jax.Array:
    """The logits to draw from.

    counts_BV: int32, how often each row's answer has each token. generated_B: its length.
    """
    seen_BV = changes.in_prompt_BV | (counts_BV > 0)
    repetition_B1 = changes.repetition_B[:, None]
    penalised_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, penalised_BV, logits_BV)
    logits_BV -= changes.frequency_B[:, None] * counts_BV.astype(jnp.float32)
    logits_BV -= changes.presence_B[:, None] * (counts_BV > 0).astype(jnp.float32)
    logits_BV += changes.bias_BV
    early_B1 = (generated_B < changes.min_tokens_B)[:, None]
    rows_B1 = jnp.arange(len(logits_BV))[:, None]
    place_BS = jnp.where(early_B1 & (stop_BS >= 0), stop_BS, logits_BV.shape[1])
    return logits_BV.at[rows_B1, place_BS].set(-jnp.inf, mode="drop")
