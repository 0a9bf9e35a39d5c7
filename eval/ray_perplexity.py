# SPDX-License-Identifier: Apache-2.0
"""Documents scored by the machines of a Ray cluster, a task a group of them.

Groups follow from the documents and the batch size alone, so the numbers do not depend on how many
machines there are, or which were lost. Beside those of one machine they may differ in last bits: a
row takes the next document where its own ends, so where chunks cut a document is decided by those
before it. What a group gave is kept when it is there.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from checkpoints.ray_cluster import Task, joined, results_of
from eval.documents import Documents, SourceDocuments
from eval.options import ModelOptions, RayOptions, identity
from eval.perplexity import (
    DocumentScore,
    Score,
    Scores,
    require_tokens,
    rounded,
    score_some,
)
from eval.positions import Sums
from eval.results import Results
from eval.windows import Cut
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from training.data.held_out import HeldOut

PER_ROW = 16  # documents of a group for each row of a batch, where they may be short
MOST = 4096  # groups


class Wanted(NamedTuple):
    """What every task is told. model, documents: what the one that asks found, to be compared."""

    path: str
    options: ModelOptions
    data: tuple[str, ...]
    batch_size: int
    chunk_length: int
    cut: Cut
    edges: tuple[int, ...]
    directory: str  # from which paths are relative, if it is there
    context: int  # keys, at least, that its global attention is to hold; 0: as it was saved
    model: dict[str, Any]
    documents: str


@dataclass(frozen=True)
class Group:
    """Some documents, by their numbers among all."""

    documents: Documents
    numbers: Sequence[int]

    @property
    def sources(self) -> Sequence[str]:
        return self.documents.sources

    @property
    def fingerprint(self) -> str:
        return f"{self.documents.fingerprint} {list(self.numbers)}"

    def __len__(self) -> int:
        return len(self.numbers)

    def source_of(self, number: int) -> int:
        return self.documents.source_of(number)

    def read(self, number: int) -> HeldOut:
        return self.documents.read(number)

    def order(self) -> Sequence[int]:
        return self.numbers


def groups_of(documents: Documents, size: int) -> list[list[int]]:
    """The documents of each task, about `size`: dealt out in the order in which they are best
    read."""
    count = -(-len(documents) // size)
    count = min(max(count, 1), MOST)
    order = list(documents.order())
    return [order[group::count] for group in range(count)]


def score_on_cluster(
    wanted: Wanted,
    documents: Documents,
    cluster: RayOptions,
    results: Results,
    progress: Callable[[int, float, int], None],
    *,
    per_row: int,
    name: str = "group",
) -> Scores:
    """See eval.perplexity.score_all, which says what is raised, as does `checkpoints.ray_cluster`.
    progress: told of each group that is there. per_row: documents of a group for each row of a
    batch. name: what `results` keeps groups under."""
    assert cluster.ray is not None
    groups = groups_of(documents, per_row * wanted.batch_size)
    parts: dict[int, Scores] = {}
    for number in range(len(groups)):
        if (kept := results.kept(f"{name}-{number}")) is not None:
            parts[number] = _unpacked(kept.values, kept.arrays, wanted)
    missing = [Task(n, (numbers,)) for n, numbers in enumerate(groups) if n not in parts]
    if missing:
        with joined(cluster.ray) as ray:
            cpus, gpus = cluster.ray_cpus, cluster.ray_gpus
            for number, (values, arrays) in results_of(
                ray, score_group, wanted, missing, cpus=cpus, gpus=gpus
            ):
                results.keep(f"{name}-{number}", values, arrays)
                parts[number] = _unpacked(values, arrays, wanted)
                of_all = [part.score for part in parts.values()]
                tokens = sum(score.tokens for score in of_all)
                progress(tokens, sum(score.nats for score in of_all), tokens)
    scores = _joined([parts[number] for number in range(len(groups))], wanted)
    require_tokens(scores, wanted.cut)
    return scores


def score_group(
    wanted: Wanted, numbers: Sequence[int]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What some documents are scored as, by a machine of the cluster: JSON values, and arrays."""
    if os.path.isdir(wanted.directory):
        os.chdir(wanted.directory)
    model, documents, mesh = _opened(wanted.path, wanted.options, wanted.data, wanted.context)
    if (there := model[1]) != wanted.model:
        changed = [name for name in wanted.model if there.get(name) != wanted.model[name]]
        raise UserError(
            f"at {wanted.path} it sees another model ({', '.join(changed)}): give one that every "
            "machine shares"
        )
    if documents.fingerprint != wanted.documents:
        raise UserError(
            f"it sees other documents ({', '.join(wanted.data)}): give those that every machine "
            "shares"
        )
    scores = score_some(
        model[0],
        Group(documents, numbers),
        sizes=rounded(wanted.batch_size, wanted.chunk_length, mesh),
        mesh=mesh,
        cut=wanted.cut,
        edges=wanted.edges,
    )
    listed = [
        [one.number, one.name, one.source, one.score.nats, one.score.tokens, one.score.bytes]
        for one in scores.documents
    ]
    return {"sources": list(scores.sources), "documents": listed}, scores.sums._asdict()


@lru_cache(maxsize=1)
def _opened(
    path: str, options: ModelOptions, data: tuple[str, ...], context: int
) -> tuple[tuple[Griffin, dict[str, Any]], SourceDocuments, Any]:
    mesh = options.make_mesh()
    lm, model = options.load_on(path, mesh, context=context)
    assert lm.tokenizer is not None
    documents = SourceDocuments(data, lm.tokenizer, vocab_size=lm.config.vocab_size)
    return (model, identity(lm)), documents, mesh


def _unpacked(values: dict[str, Any], arrays: dict[str, np.ndarray], wanted: Wanted) -> Scores:
    documents = [
        DocumentScore(number, name, source, Score(nats, tokens, size))
        for number, name, source, nats, tokens, size in values["documents"]
    ]
    sums = Sums(*(arrays[name] for name in Sums._fields))
    return Scores(values["sources"], documents, wanted.edges, sums)


def _joined(parts: Sequence[Scores], wanted: Wanted) -> Scores:
    """All of them, by document and piece."""
    stacked = Sums(*(np.concatenate(field) for field in zip(*(p.sums for p in parts), strict=True)))
    order = np.lexsort((stacked.pieces_U, stacked.numbers_U))
    documents = sorted((one for part in parts for one in part.documents), key=lambda d: d.number)
    return Scores(parts[0].sources, documents, wanted.edges, Sums(*(x[order] for x in stacked)))
