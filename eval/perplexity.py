# SPDX-License-Identifier: Apache-2.0
"""Loss and bits per byte of a model on whole documents, its state carried from chunk to chunk.

Legend: B documents at once, T tokens of a chunk. Each document begins with a fresh state and is
read once from its first token to its last, however long it is, so every token is predicted from all
text before it that the state holds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.walk import ChunkProgram
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from training.data.document import Document


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
            "checkpoint, or give documents of token ids to score_documents"
        )
    texts = list(stream)
    documents = [Document(np.array(lm.tokenizer.encode(text), np.int32)) for text in texts]
    text_bytes = sum(len(text.encode()) for text in texts)
    return score_documents(lm.model, documents, text_bytes, chunk_length=chunk_length)


def score_documents(
    model: Griffin,
    documents: Sequence[Document],
    text_bytes: int,
    *,
    chunk_length: int = 512,
    batch_size: int = 8,
    mesh: Mesh | None = None,
) -> Score:
    """Score of the targets that the documents' loss masks leave in.

    text_bytes: of UTF-8, what these spell.
    mesh: the model's parameters lie on it as sharding.shardings says; B and T are made larger where
      it asks for that.
    Raises UserError if there is nothing to predict.
    """
    tokens = sum(document.learned_targets for document in documents)
    if tokens < 1 or text_bytes < 1:
        raise UserError("there is no text to score: give at least one document that is not empty")
    graphdef, params = nnx.split(model, nnx.Param)
    program = _program(graphdef, model.config, mesh)
    if mesh is not None:
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        batch_size = -(-batch_size // rows) * rows
    longest_first = sorted(documents, key=lambda document: len(document.ids), reverse=True)
    nats = 0.0
    for start in range(0, len(documents), batch_size):
        group = longest_first[start : start + batch_size]
        inputs, targets = [d.ids[:-1] for d in group], [d.ids[1:] for d in group]
        walk = program.walk(params, inputs, targets=targets, sizes=(chunk_length,))
        for chunk, logp_BT in walk.results():
            nats -= sum(
                _sum(logp_T[:length], document, chunk.start + 1)
                for logp_T, length, document in zip(logp_BT, chunk.lengths_B, group, strict=False)
            )
    return Score(nats, tokens, text_bytes)


def _sum(logp_T: np.ndarray, document: Document, start: int) -> float:
    """The sum of a document's log-probabilities, of its ids from `start` on, in float64."""
    if document.learned is not None:
        logp_T = logp_T[document.learned[start : start + len(logp_T)]]
    return float(logp_T.sum(dtype=np.float64))


@lru_cache(maxsize=4)  # training scores the same model again and again
def _program(
    graphdef: nnx.GraphDef[Griffin], config: GriffinConfig, mesh: Mesh | None
) -> ChunkProgram:
    return ChunkProgram(token_log_probs, graphdef, config, mesh=mesh)
