# SPDX-License-Identifier: Apache-2.0
"""Dynamic evaluation of documents: each is scored while it is learned from.

    choices = DynamicConfig(parameters="mlp", segment_length=64)
    scores = dynamic_evaluation(lm, ["a text", "another"], choices, streams=2)
    scores.score.bits_per_byte, scores.updates

No token is learned from before it is scored. Memory does not grow with the length of a document.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import optax
from jax.sharding import Mesh

from eval.documents import Documents, InMemory
from eval.dynamic.config import DynamicConfig
from eval.dynamic.feed import Fed, Feed
from eval.dynamic.learner import Learner, LossNotFinite
from eval.dynamic.replay import make_replay
from eval.dynamic.retained import Retained, Retention
from eval.dynamic.statistics import Statistics
from eval.dynamic.step import Scored
from eval.perplexity import Score, check_texts
from eval.positions import PositionSums, Sums, doubling
from eval.results import Results
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from training.data.document import Document
from training.data.held_out import HeldOut

EDGES = doubling(2**22)  # buckets of position by which nats are summed up
KEPT_EVERY = 30.0  # seconds, where progress is kept
KEPT_SHARE = 20  # and so many times as long as it takes to keep it
NAME = "streams"  # of what is kept of a run


class DocumentScore(NamedTuple):
    """Of one document. updates: how often the parameters changed in it."""

    name: str
    source: int
    score: Score
    updates: int
    retained: Retained | None


class DynamicScores(NamedTuple):
    """Of all documents. sums: nats and tokens by document and by bucket of position."""

    documents: list[DocumentScore]
    edges: tuple[int, ...]
    sums: Sums
    seconds: float

    @property
    def score(self) -> Score:
        parts = [document.score for document in self.documents]
        return Score(*(sum(column) for column in zip(*map(_fields, parts), strict=True)))

    @property
    def updates(self) -> int:
        return sum(document.updates for document in self.documents)

    @property
    def forgotten(self) -> float | None:
        """Mean over documents of the bits per byte lost on the original domain; None where that
        was not measured."""
        measured = [d.retained.forgotten for d in self.documents if d.retained is not None]
        return sum(measured) / len(measured) if measured else None


def dynamic_evaluation(
    lm: LanguageModel,
    documents: Documents | Sequence[str],
    choices: DynamicConfig | None = None,
    *,
    statistics: Statistics | None = None,
    tx: optax.GradientTransformation | None = None,
    streams: int = 1,
    mesh: Mesh | None = None,
    replay_text: Sequence[np.ndarray] | None = None,
    retention: Retention | None = None,
    results: Results | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> DynamicScores:
    """Score documents, or texts, and learn from each what has been scored.

    statistics: for optimizer.algorithm=rms. tx: any transformation of optax, in place of the
      choices' algorithm. replay_text: ids of documents, for replay.of=text.
    streams: so many documents at once, each with parameters of its own.
    retention: what is measured with the parameters at each document's end.
    results: where progress is kept, and from where an interrupted evaluation goes on.
    progress: called with the tokens so far and their mean nats.
    Raises UserError: choices that do not fit, or nothing to score. LossNotFinite: a loss is no
      number any more; the documents before it, and the scores so far, are in its message.
    """
    learner = Learner(
        lm, choices or DynamicConfig(), statistics=statistics, tx=tx, count=streams, mesh=mesh
    )
    run = Evaluation(learner, documents, replay_text=replay_text, retention=retention)
    return run.finish(results, progress)


class Evaluation:
    """Documents on their way through a learner, which begins anew with them."""

    def __init__(
        self,
        learner: Learner,
        documents: Documents | Sequence[str],
        *,
        replay_text: Sequence[np.ndarray] | None = None,
        retention: Retention | None = None,
    ):
        if isinstance(documents, Sequence):
            documents = of_texts(learner.lm, documents)
        choices = learner.choices
        self.learner, self.documents, self.retention = learner, documents, retention
        replays = [make_replay(choices, replay_text) for _ in range(learner.count)]
        self.feed = Feed(learner.lm, documents, choices, replays)
        if self.feed.finished:
            raise UserError(
                "there is no text to score: give at least one document of two tokens or more"
            )
        learner.begin(learner.count)
        self._multiple = learner.mesh.size if learner.mesh is not None else 1
        self._sums = PositionSums(EDGES)
        self._nats, self._tokens = 0.0, 0
        self._open: dict[int, tuple[float, int]] = {}  # nats and tokens of documents so far
        self._ended: dict[int, DocumentScore] = {}
        self._versions = np.zeros(learner.count, np.int64)  # when each stream's document started
        self._behind: tuple[Fed, Scored] | None = None
        self.seconds = 0.0

    def finish(
        self,
        results: Results | None = None,
        progress: Callable[[int, float], None] | None = None,
        *,
        name: str = NAME,
    ) -> DynamicScores:
        """All scores. See dynamic_evaluation. name: under which progress is kept, that it is over
        included."""
        if results is not None and (kept := results.kept(name)) is not None:
            self.restore(kept.values, kept.arrays)
        started = last = time.monotonic()
        wait = KEPT_EVERY
        before = self.seconds
        while not self.feed.finished:
            self.advance()
            now = time.monotonic()
            self.seconds = before + now - started
            if results is not None and now - last > wait:
                results.keep(name, *self.where())
                last = time.monotonic()
                wait = max(KEPT_EVERY, KEPT_SHARE * (last - now))
            if progress is not None:
                progress(self._tokens, self._nats / max(self._tokens, 1))
        self._count_up()
        self.seconds = before + time.monotonic() - started
        if results is not None:
            results.keep(name, *self.where())
        return self.scores()

    def advance(self) -> None:
        """One segment of each stream; the scores of the one before are counted up meanwhile."""
        learner = self.learner
        if (rows := self.feed.narrow(self._multiple)) is not None:
            self._count_up()
            learner.keep(rows)
            self._versions = self._versions[rows]
        fed = self.feed.next()
        if fed.starts_S.any():
            if learner.choices.learns and learner.choices.reset_parameters:
                learner.restart(fed.starts_S)
            versions_S = np.asarray(learner.streams.version)
            self._versions = np.where(fed.starts_S, versions_S, self._versions)
        scored = learner.step(fed.segment, fed.replayed)
        self._count_up()
        self._behind = (fed, scored)
        if any(turn.ends for turn in fed.turns):
            self._count_up()
            self._end(fed)

    def scores(self) -> DynamicScores:
        """Of the documents that have ended."""
        documents = [self._ended[number] for number in sorted(self._ended)]
        return DynamicScores(documents, EDGES, self._sums.sums(), self.seconds)

    def where(self) -> tuple[dict, dict[str, np.ndarray]]:
        """All of it: JSON values, and arrays."""
        self._count_up()
        values, arrays = self.feed.where()
        ended = {
            str(number): [*d[:2], _fields(d.score), d.updates, _measured(d.retained)]
            for number, d in self._ended.items()
        }
        values = {"feed": values, "ended": ended, "seconds": self.seconds}
        values["versions"] = self._versions.tolist()
        values["totals"] = [self._nats, self._tokens]
        values["open"] = [[number, *sums] for number, sums in self._open.items()]
        held = {f"learner.{name}": array for name, array in self.learner.arrays().items()}
        return values, {**arrays, **held, **self._sums.arrays()}

    def restore(self, values: dict, arrays: dict[str, np.ndarray]) -> None:
        """Go on where `where` was taken."""
        self.feed.restore(values["feed"], arrays)
        prefix = "learner."
        self.learner.restore(
            {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        )
        self._sums.restore(arrays)
        self._nats, self._tokens = values["totals"]
        self._open = {number: (nats, tokens) for number, nats, tokens in values["open"]}
        self._versions = np.array(values["versions"])
        self.seconds = values["seconds"]
        for number, (name, source, score, updates, measured) in values["ended"].items():
            retained = measured and Retained(*(Score(*fields) for fields in measured))
            self._ended[int(number)] = DocumentScore(name, source, Score(*score), updates, retained)

    def _count_up(self) -> None:
        """Add up the scores of the last step, which are waited for."""
        if self._behind is None:
            return
        (fed, scored), self._behind = self._behind, None
        logp_SL, stopped_S = np.asarray(scored.logp_SL), np.asarray(scored.stopped_S)
        for turn in fed.turns:
            if stopped_S[turn.stream]:
                self._refuse(turn)
            index = self._sums.open(turn.number)
            logp_L = logp_SL[turn.stream, : turn.length]
            self._sums.add(index, turn.first, logp_L, turn.scored_L)
            scored_L = logp_L if turn.scored_L is None else logp_L[turn.scored_L]
            nats, tokens = -float(scored_L.sum(dtype=np.float64)), len(scored_L)
            self._nats, self._tokens = self._nats + nats, self._tokens + tokens
            before = self._open.get(turn.number, (0.0, 0))
            self._open[turn.number] = (before[0] + nats, before[1] + tokens)

    def _end(self, fed: Fed) -> None:
        """What is known of the documents that end with this step."""
        versions_S = np.asarray(self.learner.streams.version) - self._versions
        for turn in fed.turns:
            if not turn.ends:
                continue
            held_out = self.documents.read(turn.number)
            nats, tokens = self._open.pop(turn.number)
            retained = None
            if self.retention is not None:
                retained = self.retention.measure(self.learner, turn.stream)
            self._ended[turn.number] = DocumentScore(
                held_out.name,
                self.documents.source_of(turn.number),
                Score(nats, tokens, held_out.bytes),
                int(versions_S[turn.stream]),
                retained,
            )

    def _refuse(self, turn) -> None:
        name = self.documents.read(turn.number).name
        mean = self._nats / max(self._tokens, 1)
        raise LossNotFinite(
            f"{name}: the loss is not finite from token {turn.first:,} on, after {self._tokens:,} "
            f"tokens with a mean of {mean:.3f} nats; lower optimizer.learning_rate, or "
            "set optimizer.clip_norm"
        )


def of_texts(lm: LanguageModel, texts: Sequence[str]) -> Documents:
    """Texts as documents. Raises UserError: there is no tokenizer, or one text alone is given."""
    check_texts(texts)
    tokenizer = lm.tokenizer
    if tokenizer is None:
        raise UserError("this model came without a tokenizer, so it cannot read text")
    return InMemory(
        HeldOut(
            f"text {number}",
            Document(np.array(tokenizer.encode(text), np.int32)),
            len(text.encode()),
        )
        for number, text in enumerate(texts)
    )


def _fields(score: Score) -> tuple[float, int, int]:
    return score.nats, score.tokens, score.bytes


def _measured(retained: Retained | None) -> list | None:
    return None if retained is None else [_fields(retained.before), _fields(retained.after)]
