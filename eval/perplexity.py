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
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel, sharding
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from recurrentgemma.sharded import on_mesh, place, start_state
from recurrentgemma.state import State


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
        raise UserError(
            "this model came without a tokenizer, so it cannot read text: put one beside its "
            "checkpoint, or give token ids to score_documents"
        )
    texts = list(stream)
    documents = [lm.tokenizer.encode(text) for text in texts]
    text_bytes = sum(len(text.encode()) for text in texts)
    return score_documents(lm.model, documents, text_bytes, chunk_length=chunk_length)


def score_documents(
    model: Griffin,
    documents: Sequence[Sequence[int] | np.ndarray],
    text_bytes: int,
    *,
    chunk_length: int = 512,
    batch_size: int = 8,
    mesh: Mesh | None = None,
) -> Score:
    """Score of documents given as token ids; text_bytes: of UTF-8, what they all spell after their
    first ids. On a mesh, the model's parameters lie as sharding.shardings says, and B and T are
    made larger where the mesh asks for it.

    An id that is to be read and not predicted stands as its complement, ~id.
    Raises ValueError if there is nothing to predict.
    """
    arrays = [np.asarray(ids, np.int32) for ids in documents]
    tokens = sum(int((ids[1:] >= 0).sum()) for ids in arrays)
    if tokens < 1 or text_bytes < 1:
        raise UserError("there is no text to score: give at least one document that is not empty")
    graphdef, params = nnx.split(model, nnx.Param)
    over_rows, over_time = 1, 1
    if mesh is not None:
        over_rows = mesh.shape["data"] * mesh.shape["fsdp"]
        over_time = mesh.shape["sequence"]
    batch_size = -(-batch_size // over_rows) * over_rows
    chunk_length = -(-chunk_length // over_time) * over_time
    longest_first = sorted(arrays, key=len, reverse=True)
    nats = 0.0
    for start in range(0, len(longest_first), batch_size):
        group = longest_first[start : start + batch_size]
        rows = -(-len(group) // over_rows) * over_rows
        state = start_state(model.config, rows, mesh)
        for offset in range(0, len(group[0]) - 1, chunk_length):
            chunk = _chunk(group, rows, offset, chunk_length)
            if mesh is not None:
                lengths = place(mesh, sharding.ROWS, chunk[2])
                chunk = (*place(mesh, sharding.BATCH, *chunk[:2]), *lengths)
            found, state = _chunk_nats(mesh, graphdef, params, *chunk, state)
            nats += float(np.asarray(found, np.float64).sum())
    return Score(nats, tokens, text_bytes)


def _chunk(
    group: Sequence[np.ndarray], rows: int, offset: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens and targets [B, T] of documents from `offset` on (what is not to be predicted below
    0), and how many tokens of them are real."""
    tokens_BT, targets_BT = (
        np.zeros((rows, length), np.int32),
        np.full((rows, length), -1, np.int32),
    )
    lengths_B = np.zeros(rows, np.int32)
    for row, document in enumerate(group):
        ids = document[offset : offset + length + 1]
        count = lengths_B[row] = max(len(ids) - 1, 0)
        tokens_BT[row, :count] = np.where(ids < 0, ~ids, ids)[:-1]
        targets_BT[row, :count] = ids[1:]
    return tokens_BT, targets_BT, lengths_B


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=6)
def _chunk_nats(
    mesh: Mesh | None,
    graphdef: nnx.GraphDef[Griffin],
    params: nnx.State,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    lengths_B: jax.Array,
    state: State,
) -> tuple[jax.Array, State]:
    def run(params, tokens_BT, targets_BT, lengths_B, state):
        model, counted_BT = nnx.merge(graphdef, params), targets_BT >= 0
        targets_BT = jnp.maximum(targets_BT, 0)
        logp_BT, state = token_log_probs(model, tokens_BT, targets_BT, state, lengths=lengths_B)
        nats = -jnp.where(counted_BT, logp_BT, 0.0).sum(axis=1)
        return (
            nats if mesh is None else parallel.all_reduce(nats.sum(), *sharding.TOKEN_AXES)
        ), state

    if mesh is None:
        return run(params, tokens_BT, targets_BT, lengths_B, state)
    held = sharding.state_specs(nnx.merge(graphdef, params).config)
    specs = (sharding.specs(params), sharding.BATCH, sharding.BATCH, sharding.ROWS, held)
    return on_mesh(mesh, run, specs, (P(), held))(params, tokens_BT, targets_BT, lengths_B, state)
