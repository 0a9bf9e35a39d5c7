# SPDX-License-Identifier: Apache-2.0
"""What a run reads: the documents to learn from and those to be scored on, from files of text or
from the sources of a DataConfig."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from eval.perplexity import score_documents
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharding import BATCH
from recurrentgemma.text.tokenizer import Tokenizer
from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.config import (
    held_out,
    open_mixture,
    open_texts,
    sample_texts,
)
from training.data.documents import InMemory, Mixture, document_ids
from training.data.held_out import HeldOut, held_out_of
from training.data.sources import TextSource
from training.run import run_tokenizer

FEW, LONG = 10, 10  # documents for each row of a batch; rows that a document gives
EVAL_DOCUMENTS = 64  # that an evaluation before the last step reads, at most


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Of one run."""

    tokenizer: Tokenizer
    mixture: Mixture
    texts: TextSource | None  # held out of config.text, or of the plays
    config: TrainConfig

    def held_out(self) -> list[HeldOut]:
        """The documents to be scored on."""
        return list(self._held_out(None))

    @functools.cached_property
    def held_out_starts(self) -> list[HeldOut]:
        """Of the first EVAL_DOCUMENTS of them config.eval_tokens each; tokenised once."""
        return list(itertools.islice(self._held_out(self.config.eval_tokens), EVAL_DOCUMENTS))

    def batches(self, rows: range, mesh: Mesh | None) -> Batches:
        """Those that the run learns from; of this process the rows given."""
        config = self.config
        return Batches(
            self.mixture,
            batch_size=config.batch_size,
            row_length=config.sequence_length,
            seed=config.seed,
            long_documents=config.data.long_documents,
            epochs=config.data.epochs,
            rows=rows,
            threads=config.data.threads,
        )

    def bytes_per_token(self) -> float | None:
        """Of the text that is learned from."""
        return self.mixture.bytes_per_token()

    @property
    def is_scored(self) -> bool:
        """Whether there is anything to be scored on."""
        return self.texts is not None or bool(self.config.data.eval_sources)

    def describe(self) -> str:
        """For the first line that a run prints."""
        documents = sum(len(part) for part in self.mixture.parts)
        shown = f"{documents:,} documents"
        sums = [part.pair_sums for part in self.mixture.parts]
        pairs = [int(sum_of_part[-1]) for sum_of_part in sums if sum_of_part is not None]
        if len(pairs) == len(sums):
            shown += f", {sum(pairs):,} tokens"
        if (size := self.mixture.bytes_per_token()) is not None:
            shown += f", {size:.2f} bytes a token"
        if self.texts is not None:
            shown += f"; {len(self.texts)} held out"
        elif not self.is_scored:
            shown += "; nothing held out"
        if self._few_and_long():
            shown += "; few and long: --data.in-memory mixes their rows"
        return shown

    def _few_and_long(self) -> bool:
        """Whether rows go through long documents in their order, few at a time."""
        config, parts = self.config, self.mixture.parts
        if config.data.epochs or config.data.long_documents == "carry":
            return False
        if any(part.lengths is not None for part in parts):
            return False
        tokens = sum(len(part) * part.typical_length for part in parts)
        documents = sum(len(part) for part in parts)
        return (
            documents < FEW * config.batch_size
            and tokens > LONG * config.sequence_length * documents
        )

    def _held_out(self, limit: int | None) -> Iterator[HeldOut]:
        if self.texts is not None:
            return held_out_of(self.texts, self.tokenizer, limit)
        vocab_size = self.config.model.vocab_size
        return held_out(self.config.data, self.tokenizer, vocab_size=vocab_size, limit=limit)


def open_inputs(config: TrainConfig, run_dir: Path) -> Inputs:
    """Open what a run reads, with the run's tokenizer, which is made if there is none yet. What it
    will be scored on first is read. Writes nothing.

    Raises ValueError: a source or text cannot be read, there is nothing in what it is to be scored
    on, or tokenizer, vocabulary and sources do not agree; see data/config.py and run.py.
    """
    inputs = _open(config, run_dir)
    if inputs.is_scored:
        starts = inputs.held_out_starts
        if not any(start.bytes and start.document.learned_targets for start in starts):
            what = ", ".join(config.data.eval_sources) or "the held-out text"
            raise UserError(
                f"{what}: there is no text to score in the first {config.eval_tokens} tokens of "
                f"the first {EVAL_DOCUMENTS} documents; give longer text, or none"
            )
    return inputs


def _open(config: TrainConfig, run_dir: Path) -> Inputs:
    if config.data.sources:
        tokenizer = run_tokenizer(run_dir, config, sample_texts(config.data))
        mixture = open_mixture(config.data, tokenizer, vocab_size=config.model.vocab_size)
        return Inputs(tokenizer, mixture, None, config)
    learned, tails = open_texts(config.text)
    texts = [learned[number] for number in range(len(learned))]
    tokenizer = run_tokenizer(run_dir, config, texts)
    documents = [document_ids(tokenizer, text) for text in texts]
    text_bytes = sum(len(text.encode()) for text in texts)
    mixture = Mixture((InMemory(documents, text_bytes=text_bytes),), (1.0,))
    return Inputs(tokenizer, mixture, tails, config)


def bits_per_byte_of(
    model: Griffin, held_out: list[HeldOut], config: TrainConfig, mesh: Mesh | None = None
) -> float:
    """Bits per byte of documents, as config.eval_cut says."""
    documents = [one.document for one in held_out]
    if config.eval_cut or "global_attention" in model.config.block_types:
        length = config.sequence_length
        documents = [
            document.cut(start, start + length + 1)
            for document in documents
            for start in range(0, len(document.ids) - 1, length)
        ]
    text_bytes = sum(one.bytes for one in held_out)
    return score_documents(model, documents, text_bytes, mesh=mesh).bits_per_byte


class Feed:
    """Batches where the training step wants them: each process makes its own rows, and the mesh
    holds all of them."""

    def __init__(self, batches: Iterator[Any], mesh: Mesh | None, *, batch_size: int, rows: range):
        self._batches, self._mesh = batches, mesh
        self._batch_size, self._first = batch_size, rows.start

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        if self._mesh is None:
            return batch
        return jax.tree.map(self._put, batch)

    def _put(self, rows_RT: Any) -> jax.Array:
        assert self._mesh is not None
        where = NamedSharding(self._mesh, BATCH)
        if jax.process_count() == 1:
            return jax.device_put(rows_RT, where)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(self._batch_size)
            return rows_RT[start - self._first : stop - self._first, index[1]]

        shape = (self._batch_size, rows_RT.shape[1])
        return jax.make_array_from_callback(shape, where, part)
