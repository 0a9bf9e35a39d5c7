# SPDX-License-Identifier: Apache-2.0
"""Loss by position far past the training length: the Griffin paper's figure 5 (section 6.1).

Long documents are cut into pieces of one length, side by side, each of which begins with an empty
state; what is left over is not read, so every position is predicted in equally many pieces and of
the same text. All models read the same pieces. A model with global attention is given keys for a
whole piece (its context_length), which changes no parameter: it is asked, as the paper asks it,
what it does at positions that it has never seen.

Two curves for each model: the loss at positions of each bucket, and the mean loss of the first L
tokens, which is what an evaluation with sequences of length L would say.

Legend: U pieces, K buckets of position.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval import plots
from eval.intervals import Interval, change, method, over_documents
from eval.perplexity import Scores
from eval.positions import Sums, bucket_names, doubling
from eval.results import Table
from recurrentgemma.config import GriffinConfig

TIMES = 32  # the longest training length
Unit = Literal["documents", "pieces"]


@dataclass(frozen=True)
class Extrapolation:
    """What one model made of the pieces. trained_at: tokens of its training sequences; None where
    it does not say."""

    label: str
    family: str
    trained_at: int | None
    parameters: int
    edges: Sequence[int]
    sums: Sums
    unit: Unit

    @property
    def groups_U(self) -> np.ndarray | None:
        """What is drawn together for an interval: the pieces of one document, or none."""
        return self.sums.numbers_U if self.unit == "documents" else None

    def by_position(self) -> list[Interval]:
        """Loss in each bucket of position."""
        return over_documents(self.sums.nats_UK, self.sums.tokens_UK, groups_U=self.groups_U)

    def by_length(self) -> list[Interval]:
        """Mean loss of the tokens up to the end of each bucket."""
        nats_UK, tokens_UK = (x.cumsum(1) for x in (self.sums.nats_UK, self.sums.tokens_UK))
        return over_documents(nats_UK, tokens_UK, groups_U=self.groups_U)

    def trained_bucket(self) -> int | None:
        """The last bucket with positions that training has seen."""
        if self.trained_at is None:
            return None
        return max(k for k, edge in enumerate(self.edges) if edge < max(self.trained_at, 2))

    def beyond(self) -> Interval | None:
        """How much higher the loss is in the last bucket than in the last that training has seen;
        below 0, the model uses what it never had in training."""
        trained, last = self.trained_bucket(), len(self.edges) - 1
        if trained is None or trained == last:
            return None
        both = [trained, last]
        return change(
            self.sums.nats_UK[:, both], self.sums.tokens_UK[:, both], groups_U=self.groups_U
        )


def family(config: GriffinConfig) -> str:
    """Griffin, Hawk, MQA, or a local-attention Transformer, by its blocks."""
    kinds = set(config.block_types)
    if kinds == {"recurrent"}:
        return "Hawk"
    if "recurrent" in kinds:
        return "Griffin" if "global_attention" not in kinds else "recurrent and global attention"
    return "MQA" if kinds == {"global_attention"} else "local attention"


def edges_of(length: int, *, parts: int = 1) -> tuple[int, ...]:
    """Buckets that double, the last one up to and with `length`; so many to a doubling."""
    edges = [edge for edge in doubling(length, parts=parts) if edge < length]
    return tuple(edges) or (1,)


def extrapolation(
    scores: Scores,
    config: GriffinConfig,
    *,
    label: str,
    trained_at: int | None,
    parameters: int,
    unit: Unit,
) -> Extrapolation:
    """Of the scores of pieces."""
    return Extrapolation(
        label, family(config), trained_at, parameters, scores.edges, scores.sums, unit
    )


def labels(paths: Sequence[str], families: Sequence[str], trained: Sequence[int | None]) -> list:
    """A name for each model: its family and its training length, and where these are the same for
    two of them, its path."""
    short = [
        kind if length is None else f"{kind}, trained at {length:,}"
        for kind, length in zip(families, trained, strict=True)
    ]
    return [
        name if short.count(name) == 1 else f"{name} ({Path(path).name})"
        for name, path in zip(short, paths, strict=True)
    ]


def summary(models: Sequence[Extrapolation]) -> dict[str, Any]:
    """The result, its tables and its plots, as Results.finish takes them."""
    first = models[0]
    groups = len(np.unique(first.sums.numbers_U)) if first.unit == "documents" else None
    how = method(groups or len(first.sums.numbers_U), first.unit)
    names = bucket_names(first.edges)[:-1]
    length = int(first.sums.tokens_UK[0].sum())
    names.append(f"{first.edges[-1]:,} to {length:,}")
    ends = [*(edge - 1 for edge in first.edges[1:]), length]
    positions = [model.by_position() for model in models]
    lengths = [model.by_length() for model in models]
    described = [
        _described(model, names, ends, at, to)
        for model, at, to in zip(models, positions, lengths, strict=True)
    ]
    result = {
        "length": length,
        "documents": len(np.unique(first.sums.numbers_U)),
        "pieces": len(first.sums.numbers_U),
        "intervals": how,
        "models": described,
    }
    columns = ("tokens before", *(model.label for model in models))
    tables = [
        _conclusions(models, positions, names, how),
        Table(f"Nats per token by position ({how})", columns, _rows(names, positions)),
        Table(
            "Mean nats per token of the first L tokens",
            ("L", *columns[1:]),
            _rows([f"{end:,}" for end in ends], lengths),
        ),
    ]
    middles = [math.sqrt(edge * (end + 1)) for edge, end in zip(first.edges, ends, strict=True)]
    return {
        "result": result,
        "tables": tables,
        "plots": {
            "loss_by_position": _plot(
                models,
                positions,
                middles,
                "Loss by position",
                "position (tokens before; middle of the bucket)",
                how,
            ),
            "loss_by_length": _plot(
                models,
                lengths,
                [float(end) for end in ends],
                "Mean loss of the first L tokens",
                "L (tokens)",
                how,
            ),
        },
    }


def _described(
    model: Extrapolation,
    names: Sequence[str],
    ends: Sequence[int],
    positions: Sequence[Interval],
    lengths: Sequence[Interval],
) -> dict[str, Any]:
    beyond = model.beyond()
    return {
        "label": model.label,
        "family": model.family,
        "trained_at": model.trained_at,
        "parameters": model.parameters,
        "by_position": [
            {"name": name, "first": edge, **_json(interval)}
            for name, edge, interval in zip(names, model.edges, positions, strict=True)
        ],
        "by_length": [
            {"length": end, **_json(interval)} for end, interval in zip(ends, lengths, strict=True)
        ],
        "beyond_training": None if beyond is None else _json(beyond),
    }


def _conclusions(
    models: Sequence[Extrapolation],
    positions: Sequence[Sequence[Interval]],
    names: Sequence[str],
    how: str,
) -> Table:
    rows = []
    for model, intervals in zip(models, positions, strict=True):
        trained, beyond = model.trained_bucket(), model.beyond()
        best = int(np.argmin([interval.mean for interval in intervals]))
        rows.append(
            [
                model.label,
                model.parameters,
                None if trained is None else intervals[trained].mean,
                intervals[best].mean,
                names[best],
                intervals[-1].mean,
                None if beyond is None else _signed(beyond),
            ]
        )
    columns = (
        *("model", "parameters", "loss at training length", "lowest loss", "at position"),
        *("loss at the end", "end less training length"),
    )
    return Table(f"Past the training length (nats per token; {how})", columns, rows)


def _rows(names: Sequence[str], columns: Sequence[Sequence[Interval]]) -> list[list[Any]]:
    cells = [[_shown(interval) for interval in column] for column in columns]
    return [[name, *row] for name, row in zip(names, zip(*cells, strict=True), strict=True)]


def _shown(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _signed(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _json(interval: Interval) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high}
    known = {name: None if math.isnan(x) else x for name, x in ends.items()}
    return {"loss": interval.mean, **known, "count": interval.count}


def _plot(
    models: Sequence[Extrapolation],
    intervals: Sequence[Sequence[Interval]],
    x: Sequence[float],
    title: str,
    xlabel: str,
    how: str,
) -> Callable[[Path], None]:
    families = sorted({model.family for model in models})
    trained = sorted({model.trained_at for model in models if model.trained_at is not None})
    curves = [
        plots.Line(
            model.label,
            x,
            [interval.mean for interval in column],
            [interval.low for interval in column],
            [interval.high for interval in column],
            kind=families.index(model.family),
            variant=trained.index(model.trained_at) if model.trained_at is not None else 3,
        )
        for model, column in zip(models, intervals, strict=True)
    ]
    means = np.array([curve.y for curve in curves])
    known = [model.trained_bucket() for model in models]
    seen = [row[: k + 1].max() for row, k in zip(means, known, strict=True) if k is not None]
    top = max(seen, default=means.max())
    top += 0.1 * max(top - means.min(), 0.1)
    broken = [m.label for m, row in zip(models, means, strict=True) if row.max() > top]
    return partial(
        plots.lines,
        curves=curves,
        title=title,
        xlabel=xlabel,
        ylabel="loss (nats per token)",
        log_x=True,
        top=top,
        marks={f"trained at {length:,}": length for length in trained},
        note=how + (f"; leaves the plot: {'; '.join(broken)}" if broken else ""),
    )
