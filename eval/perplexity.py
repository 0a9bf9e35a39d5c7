# SPDX-License-Identifier: Apache-2.0
"""Loss and bits per byte of a model on whole documents, its state carried from chunk to chunk.

    scores = score_all(lm.model, documents, batch_size=8)
    scores.score.bits_per_byte, scores.by_source(), scores.by_document()

Each document begins with an empty state and is read once from its first token to its last, however
long it is, so every token is predicted from all text before it that the state holds. Memory does
not grow with the length: of a document only its ids are held. Several documents go side by side
(rows.py).

Legend: B rows, T tokens of a chunk, U documents or pieces of them, K buckets of position.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from eval.documents import Documents, InMemory, read_ahead
from eval.positions import PositionSums, Sums
from eval.results import Kept, Results
from eval.rows import Rows, Stretch
from eval.windows import Cut, Pieces, check_document, whole
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.walk import ChunkProgram
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from recurrentgemma.sharded import state_shardings
from recurrentgemma.state import State, init_state
from training.data.document import Document
from training.data.held_out import HeldOut

CHUNK_LENGTH, BATCH_SIZE = 512, 8
KEEP_SECONDS = 30.0  # what a killed evaluation has to do again, at most


@dataclass(frozen=True)
class Score:
    """Sum of -log p in nats over `tokens` predicted tokens, which spell `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the mean nats per token. It depends on the tokenizer: compare bits_per_byte
        instead."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2.0) / self.bytes


class DocumentScore(NamedTuple):
    """Of one document, all of its pieces together."""

    number: int
    name: str
    source: int  # which of Scores.sources it is of
    score: Score


@dataclass(frozen=True)
class Scores:
    """What documents were scored as. `documents` are in the order of their numbers, as are
    `sums`."""

    sources: Sequence[str]
    documents: Sequence[DocumentScore]
    edges: Sequence[int]  # of the buckets of position
    sums: Sums

    @property
    def score(self) -> Score:
        """Of all documents together."""
        return _sum_of(one.score for one in self.documents)

    def by_source(self) -> dict[str, Score]:
        """By the source's spec; those of which nothing was scored are left out."""
        scores = {
            spec: _sum_of(one.score for one in self.documents if one.source == index)
            for index, spec in enumerate(self.sources)
        }
        return {spec: score for spec, score in scores.items() if score.tokens}


def perplexity(lm: LanguageModel, stream: Iterable[str], *, chunk_length: int = 512) -> Score:
    """Score of the texts of `stream`, each a document of its own, after the tokenizer's BOS.

    Raises UserError: there is nothing to predict, the model came without a tokenizer, or the stream
    is one text, whose characters would be the documents.
    """
    check_texts(stream)
    if lm.tokenizer is None:
        raise UserError(
            "this model came without a tokenizer, so it cannot read text: put one beside its "
            "checkpoint, or give documents of token ids to score_documents"
        )
    texts = list(stream)
    documents = [Document(np.array(lm.tokenizer.encode(text), np.int32)) for text in texts]
    text_bytes = sum(len(text.encode()) for text in texts)
    return score_documents(lm.model, documents, text_bytes, chunk_length=chunk_length)


def check_texts(texts: object) -> None:
    """Raises UserError: one text stands where several are expected."""
    if isinstance(texts, str | bytes):
        raise UserError(
            f"one text of {len(texts):,} characters: expected a list of texts; put it in brackets, "
            "[text], to score it as one document"
        )


def score_documents(
    model: Griffin,
    documents: Sequence[Document],
    text_bytes: int,
    *,
    chunk_length: int = CHUNK_LENGTH,
    batch_size: int = BATCH_SIZE,
    mesh: Mesh | None = None,
) -> Score:
    """Score of the targets that the documents' loss masks leave in.

    text_bytes: of UTF-8, what these spell.
    mesh: the model's parameters lie on it as sharding.shardings says; B and T are made larger where
      it asks for that.
    Raises UserError if there is nothing to predict.
    """
    if sum(document.learned_targets for document in documents) < 1 or text_bytes < 1:
        raise UserError("there is no text to score: give at least one document that is not empty")
    named = InMemory(HeldOut(f"document {n}", document, 0) for n, document in enumerate(documents))
    scores = score_all(model, named, chunk_length=chunk_length, batch_size=batch_size, mesh=mesh)
    return Score(scores.score.nats, scores.score.tokens, text_bytes)


def score_all(
    model: Griffin,
    documents: Documents,
    *,
    chunk_length: int = CHUNK_LENGTH,
    batch_size: int = BATCH_SIZE,
    mesh: Mesh | None = None,
    cut: Cut = whole,
    edges: Sequence[int] = (1,),
    results: Results | None = None,
    name: str = "rows",
    progress: Callable[[int, float, int], None] = lambda read, nats, scored: None,
) -> Scores:
    """Scores of all documents.

    mesh: as for score_documents.
    cut: documents are read in spans, each from an empty state (windows.py); by default whole.
    edges: of the buckets of position (positions.py) that the scores are summed up in.
    results: where to keep how far it has come, under `name`; and where to go on from.
    progress: is told how many tokens were read, the nats so far, and of how many scored tokens.
    Raises UserError: there is nothing to predict, or a document is longer than a model with global
    attention holds.
    """
    scores = score_some(
        model,
        documents,
        sizes=rounded(batch_size, chunk_length, mesh),
        mesh=mesh,
        cut=cut,
        edges=edges,
        results=results,
        name=name,
        progress=progress,
    )
    require_tokens(scores, cut)
    return scores


def score_some(
    model: Griffin,
    documents: Documents,
    *,
    sizes: tuple[int, int],
    mesh: Mesh | None,
    cut: Cut,
    edges: Sequence[int],
    results: Results | None = None,
    name: str = "rows",
    progress: Callable[[int, float, int], None] = lambda read, nats, scored: None,
) -> Scores:
    """Scores of documents of which perhaps none has anything to predict. sizes: B and T, as
    `rounded` gives them; see score_all."""
    kept = results.kept(name) if results else None
    scoring = _Scoring(model, documents, sizes=sizes, mesh=mesh, cut=cut, edges=edges, kept=kept)
    return scoring.run(results, name, progress)


def require_tokens(scores: Scores, cut: Cut) -> None:
    """Raises UserError: there was nothing to predict."""
    if scores.score.tokens:
        return
    if isinstance(cut, Pieces):
        raise UserError(
            f"no document has the {cut.length:,} tokens of a piece: give longer ones, or a lower "
            "--length"
        )
    raise UserError("there is no text to score: give at least one document that is not empty")


def rounded(batch_size: int, chunk_length: int, mesh: Mesh | None) -> tuple[int, int]:
    """B and T, made larger where the mesh asks for it."""
    if batch_size < 1 or chunk_length < 1:
        raise UserError(f"{batch_size} rows of {chunk_length} tokens: expected at least 1 of each")
    rows, time = _multiples(mesh)
    return -(-batch_size // rows) * rows, -(-chunk_length // time) * time


class _Scoring:
    """Documents on their way through a model."""

    def __init__(
        self,
        model: Griffin,
        documents: Documents,
        *,
        sizes: tuple[int, int],
        mesh: Mesh | None,
        cut: Cut,
        edges: Sequence[int],
        kept: Kept | None,
    ) -> None:
        graphdef, self._params = nnx.split(model, nnx.Param)
        self._config, self._documents, self._cut = model.config, documents, cut
        self._program = _program(graphdef, model.config, mesh)
        self._sums = PositionSums(edges)
        self._read = 0  # tokens
        self._known: dict[int, tuple[str, int]] = {}  # number -> name and bytes of what was begun
        order, taken = documents.order(), 0
        if kept is not None:
            self._read, taken = kept.values["read"], kept.values["where"]["taken"]
            self._known = {n: (name, size) for n, name, size in kept.values["known"]}
            self._sums.restore(kept.arrays)
        self.rows = Rows(
            self._begun(read_ahead(documents, (order[n] for n in range(taken, len(order))))),
            batch_size=sizes[0],
            chunk_length=sizes[1],
            window=model.config.attention_window,
            cut=cut,
            multiple=_multiples(mesh)[0],
            where=kept and kept.values["where"],
            read=documents.read,
        )
        places = {} if mesh is None else {"out_shardings": state_shardings(model.config, mesh)}
        self._take_rows = jax.jit(_take_rows, **places)
        self._state: State | None = None
        if kept is not None and not self.rows.finished:
            self._state = _restored_state(model.config, self.rows.batch_size, kept, places)

    def _begun(self, documents: Iterator[tuple[int, HeldOut]]) -> Iterator[tuple[int, HeldOut]]:
        """The documents as they are; each is looked at when its turn comes."""
        for number, held_out in documents:
            spans = self._cut(len(held_out.document.ids))
            for span in spans:
                check_document(self._config, held_out.name, span.stop - span.start - 1)
                self._sums.open(number, span.piece)
            self._known[number] = (held_out.name, held_out.bytes)
            yield number, held_out

    def run(
        self, results: Results | None, name: str, progress: Callable[[int, float, int], None]
    ) -> Scores:
        """Read everything, and sum it up."""
        behind, kept_at = None, time.monotonic()
        while not self.rows.finished:
            if results is not None and time.monotonic() - kept_at > KEEP_SECONDS:
                self._add(behind)
                behind = None
                self._keep(results, name)
                kept_at = time.monotonic()
            ahead = self._advance()
            self._add(behind)  # fetched while the device reads the next chunk
            behind = ahead
            progress(self._read, self._sums.nats, self._sums.tokens)
        self._add(behind)
        return self._scores()

    def _advance(self) -> tuple[list[Stretch], Any]:
        rows = self.rows.narrow()
        if self._state is None:
            self._state = self._program.fresh(self.rows.batch_size)
        elif rows is not None:
            self._state = self._take_rows(self._state, rows)
        chunk, stretches = self.rows.next_chunk()
        self._read += int(chunk.lengths_B.sum())
        logp_BT, self._state = self._program(self._params, chunk, self._state)
        return stretches, logp_BT

    def _add(self, behind: tuple[list[Stretch], Any] | None) -> None:
        if behind is None:
            return
        logp_BT = jax.device_get(behind[1])
        for number, span, row, column, start, count, learned_T in behind[0]:
            index = self._sums.open(number, span.piece)
            position = span.first + start + 1
            self._sums.add(index, position, logp_BT[row, column : column + count], learned_T)

    def _keep(self, results: Results, name: str) -> None:
        leaves = jax.device_get(jax.tree.leaves(self._state))
        arrays = {f"state.{i}": leaf for i, leaf in enumerate(leaves)} | self._sums.arrays()
        known = [[number, *of_it] for number, of_it in self._known.items()]
        results.keep(name, {"read": self._read, "where": self.rows.where(), "known": known}, arrays)

    def _scores(self) -> Scores:
        sums = self._sums.sums()
        nats, tokens = dict.fromkeys(self._known, 0.0), dict.fromkeys(self._known, 0)
        for index, number in enumerate(sums.numbers_U.tolist()):
            nats[number] += float(sums.nats_UK[index].sum())
            tokens[number] += int(sums.tokens_UK[index].sum())
        documents = [
            DocumentScore(
                number,
                self._known[number][0],
                self._documents.source_of(number),
                Score(nats[number], tokens[number], self._known[number][1]),
            )
            for number in sorted(self._known)
        ]
        return Scores(self._documents.sources, documents, self._sums.edges, sums)


def _sum_of(scores: Iterable[Score]) -> Score:
    listed = list(scores)
    return Score(
        math.fsum(score.nats for score in listed),
        sum(score.tokens for score in listed),
        sum(score.bytes for score in listed),
    )


def _multiples(mesh: Mesh | None) -> tuple[int, int]:
    """What divides B and T."""
    if mesh is None:
        return 1, 1
    return mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["sequence"]


def _take_rows(state: State, rows: jax.Array) -> State:
    return jax.tree.map(lambda x: x[rows], state)


def _restored_state(
    config: GriffinConfig, batch_size: int, kept: Kept, places: dict[str, Any]
) -> State:
    shapes = jax.eval_shape(lambda: init_state(config, batch_size))
    leaves = [kept.arrays[f"state.{i}"] for i in range(len(jax.tree.leaves(shapes)))]
    state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return jax.device_put(state, places.get("out_shardings"))


@lru_cache(maxsize=4)  # training scores the same model again and again
def _program(
    graphdef: nnx.GraphDef[Griffin], config: GriffinConfig, mesh: Mesh | None
) -> ChunkProgram:
    return ChunkProgram(token_log_probs, graphdef, config, mesh=mesh)
