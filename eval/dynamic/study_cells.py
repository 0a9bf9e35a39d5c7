# SPDX-License-Identifier: Apache-2.0
"""The cells of the study of dynamic evaluation: one model on one domain under some choices. Each is
kept as a JSON file when it is finished, and not measured again.

A domain is cut into pieces of equal length, far from each other, which are read side by side, each
from the checkpoint's parameters: so a number has an interval over pieces. Between them lie other
pieces, on which learning rates are chosen.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.session_file import weights_fingerprint
from eval.cells import Cells
from eval.documents import Documents, InMemory
from eval.dynamic.config import DynamicConfig
from eval.dynamic.flops import adapted_parameters, flops_per_token
from eval.dynamic.learner import Learner, LossNotFinite
from eval.dynamic.retained import Retention
from eval.dynamic.statistics import Statistics, gradient_statistics
from eval.dynamic.stream import DynamicScores, Evaluation
from eval.dynamic.summary import by_position
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from training.data.document import Document
from training.data.held_out import HeldOut

FACTOR = 10**0.5  # from one learning rate to the next
MOST_RATES = 9


@dataclasses.dataclass(frozen=True)
class Domain:
    """Pieces of a text. tuning: others, for choosing learning rates."""

    name: str
    pieces: InMemory
    tuning: InMemory


def cut_domain(
    name: str, documents: Documents, lm: LanguageModel, *, count: int, tokens: int, tuning: int
) -> Domain:
    """`count` pieces of `tokens` tokens each, and as many of `tuning` tokens, of documents laid end
    to end; each begins with the tokenizer's BOS.

    Raises UserError: there is too little text.
    """
    ids = np.concatenate([documents.read(n).document.ids for n in range(len(documents))])
    stride = len(ids) // count
    if stride < tokens + tuning:
        raise UserError(
            f"{name}: {len(ids):,} tokens are too few for {count} pieces of {tokens:,} tokens and "
            f"{count} of {tuning:,} to choose learning rates on: ask for fewer or shorter ones"
        )
    tokenizer = lm.tokenizer
    assert tokenizer is not None
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]

    def piece(number: int, start: int, length: int) -> HeldOut:
        part = ids[start : start + length]
        text_bytes = len(tokenizer.decode(part.tolist()).encode())
        document = Document(np.array([*first, *part], np.int32))
        return HeldOut(f"{name} {number}", document, text_bytes)

    starts = [number * stride for number in range(count)]
    return Domain(
        name,
        InMemory(piece(n, start, tokens) for n, start in enumerate(starts)),
        InMemory(piece(n, start + stride - tuning, tuning) for n, start in enumerate(starts)),
    )


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with what its cells need beside the domains. training: text that it was trained on,
    for gradient statistics."""

    name: str
    lm: LanguageModel
    training: Documents
    retention: Retention
    segments: int = 512


class DynamicCells:
    """Finished cells in a folder, and how to finish others."""

    def __init__(self, folder: Path):
        self._cells = Cells(folder)
        self._statistics: dict[str, Statistics] = {}

    def measure(self, subject: Subject, domain: Domain, choices: DynamicConfig) -> dict[str, Any]:
        """The cell of a domain's pieces."""
        retention = subject.retention if choices.learns else None
        return self._cell(subject, domain.name, domain.pieces, choices, retention)

    def rate(
        self, subject: Subject, domains: Sequence[Domain], choices: DynamicConfig
    ) -> DynamicConfig:
        """The choices with the learning rate that is best over the domains' tuning pieces: from
        that given it goes up or down, by FACTOR, as long as their mean bits per byte fall."""
        tried: dict[int, float] = {}

        def bits(step: int) -> float:
            if step not in tried:
                moved = with_rate(choices, choices.optimizer.rate * FACTOR**step)
                cells = [
                    self._cell(subject, f"{d.name}.tuning", d.tuning, moved, None) for d in domains
                ]
                tried[step] = float(np.mean([cell["bits_per_byte"] for cell in cells]))
            return tried[step]

        best, direction = 0, 1 if bits(1) < bits(0) else -1
        while bits(best + direction) < bits(best) and len(tried) < MOST_RATES:
            best += direction
        return with_rate(choices, choices.optimizer.rate * FACTOR**best)

    def all(self) -> list[dict[str, Any]]:
        """Every finished cell."""
        return self._cells.all()

    def _cell(
        self,
        subject: Subject,
        domain: str,
        pieces: InMemory,
        choices: DynamicConfig,
        retention: Retention | None,
    ) -> dict[str, Any]:
        known = {
            "model": subject.name,
            "weights": weights_fingerprint(subject.lm),
            "domain": domain,
            "text": pieces.fingerprint,
            "choices": choices.to_json(),
        }
        name = f"{subject.name}.{domain}"
        if (finished := self._cells.take(name, known)) is not None:
            return finished
        learner = self._learner(subject, choices, len(pieces))
        flops = flops_per_token(subject.lm.config, choices)
        numbers: dict[str, Any] = {
            "flops_per_token": flops.per_token,
            "flops": flops._asdict(),
            "adapted_parameters": adapted_parameters(subject.lm.config, choices),
        }
        try:
            scores = Evaluation(learner, pieces, retention=retention).finish()
        except LossNotFinite as error:
            numbers |= {"stopped": str(error), "bits_per_byte": 1e9}  # worse than any, and JSON
        else:
            numbers |= _numbers(scores)
        return self._cells.keep(name, known, numbers)

    def _learner(self, subject: Subject, choices: DynamicConfig, count: int) -> Learner:
        """What is compiled serves all cells of the same program."""
        statistics = None
        if choices.optimizer.algorithm == "rms":
            key = f"{subject.name} {choices.parameters} {choices.segment_length} {choices.lora}"
            if key not in self._statistics:
                self._statistics = {
                    key: gradient_statistics(
                        subject.lm, subject.training, choices, segments=subject.segments
                    )
                }
            statistics = self._statistics[key]
        return Learner(subject.lm, choices, statistics=statistics, count=count)


def with_rate(choices: DynamicConfig, rate: float) -> DynamicConfig:
    """The choices with this learning rate, rounded to three digits."""
    optimizer = dataclasses.replace(choices.optimizer, learning_rate=float(f"{rate:.3g}"))
    return dataclasses.replace(choices, optimizer=optimizer)


def _numbers(scores: DynamicScores) -> dict[str, Any]:
    score = scores.score
    return {
        "bits_per_byte": score.bits_per_byte,
        "loss": score.loss,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "seconds": scores.seconds,
        "updates": scores.updates,
        "forgotten": scores.forgotten,
        "pieces": [d.score.bits_per_byte for d in scores.documents],
        "by_position": by_position(scores),
    }
