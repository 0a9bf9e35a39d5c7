# SPDX-License-Identifier: Apache-2.0
"""Loss and bits per byte of a model on whole documents, its state carried from chunk to chunk.

Legend: B documents at once, T tokens in a chunk. Each document begins with a fresh state and is
read once from its first token to its last, however long it is, so every token is predicted from all
text before it that the state holds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.griffin import Griffin
from recurrentgemma.lm import LanguageModel
from recurrentgemma.losses import token_log_probs
from recurrentgemma.state import State, init_state


@dataclass(frozen=True)
class Score:
    """Sum of -log p in nats over `tokens` predicted tokens, which spell `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """e to the mean nats per token. It depends on the tokenizer: compare bits_per_byte
        instead."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2.0) / self.bytes


def perplexity(lm: LanguageModel, stream: Iterable[str], *, chunk_length: int = 512) -> Score:
    """Score of the texts of `stream`, each a document of its own, after the tokenizer's BOS.

    Raises ValueError if there is nothing to predict, or the model came without a tokenizer.
    """
    if lm.tokenizer is None:
        raise ValueError(
            "this model came without a tokenizer, so it cannot read text: put one beside its "
            "checkpoint, or give token ids to score_documents"
        )
    texts = list(stream)
    documents = [lm.tokenizer.encode(text) for text in texts]
    return score_documents(lm.model, documents, texts, chunk_length=chunk_length)


def score_documents(
    model: Griffin,
    documents: Sequence[Sequence[int] | np.ndarray],
    texts: Sequence[str] | int,
    *,
    chunk_length: int = 512,
    batch_size: int = 8,
) -> Score:
    """Score of documents given as token ids, texts[i] being what documents[i] spells after its
    first id; or, instead of texts, how many bytes they all are.

    An id that is to be read and not predicted stands as its complement, ~id.
    Raises ValueError if there is nothing to predict.
    """
    arrays = [np.asarray(ids, np.int32) for ids in documents]
    tokens = sum(int((ids[1:] >= 0).sum()) for ids in arrays)
    bytes_of_text = texts if isinstance(texts, int) else sum(len(t.encode()) for t in texts)
    if tokens < 1 or bytes_of_text < 1:
        raise ValueError("there is no text to score: give at least one document that is not empty")
    graphdef, params = nnx.split(model, nnx.Param)
    longest_first = sorted(arrays, key=len, reverse=True)
    nats = 0.0
    for start in range(0, len(longest_first), batch_size):
        group = longest_first[start : start + batch_size]
        state = init_state(model.config, len(group))
        for offset in range(0, len(group[0]) - 1, chunk_length):
            pairs = [ids[offset : offset + chunk_length + 1] for ids in group]
            lengths_B = np.array([max(len(ids) - 1, 0) for ids in pairs], np.int32)
            tokens_BT = np.zeros((len(group), chunk_length), np.int32)
            targets_BT = np.full((len(group), chunk_length), -1, np.int32)
            for row, ids in enumerate(pairs):
                tokens_BT[row, : lengths_B[row]] = np.where(ids < 0, ~ids, ids)[:-1]
                targets_BT[row, : lengths_B[row]] = ids[1:]
            chunk_nats_B, state = _chunk_nats(
                graphdef, params, tokens_BT, targets_BT, lengths_B, state
            )
            nats += float(np.asarray(chunk_nats_B, np.float64).sum())
    return Score(nats, tokens, bytes_of_text)


@partial(jax.jit, static_argnums=0, donate_argnums=5)
def _chunk_nats(
    graphdef: nnx.GraphDef[Griffin],
    params: nnx.State,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    lengths_B: jax.Array,
    state: State,
) -> tuple[jax.Array, State]:
    model = nnx.merge(graphdef, params)
    counted_BT = targets_BT >= 0
    targets_BT = jnp.maximum(targets_BT, 0)
    logp_BT, state = token_log_probs(model, tokens_BT, targets_BT, state, lengths=lengths_B)
    return -jnp.where(counted_BT, logp_BT, 0.0).sum(axis=1), state
