# SPDX-License-Identifier: Apache-2.0
"""The learning curves of runs, from their metrics.jsonl: of the text that they learn from, and of
text held out.

    curve = read_curve(Path("runs/demo"))
    curve.training.y, curve.held_out.y

A step's loss is that of its own few rows, so training points are means over as many steps each.
"""

import statistics
from pathlib import Path
from typing import Any, NamedTuple

from recurrentgemma.errors import UserError
from training.observe.metrics import read_metrics
from training.run_folder import METRICS

BITS, NATS, HELD_OUT = "bits_per_byte", "loss", "held_out_bits_per_byte"
UNITS = {BITS: "bits per byte", NATS: "nats per token"}


class Points(NamedTuple):
    """Of one curve; low and high are the ends of what each point is the mean of."""

    tokens: list[int]
    y: list[float]
    low: list[float]
    high: list[float]


class Curve(NamedTuple):
    """What a run has learned."""

    name: str
    unit: str  # of the training curve: a key of UNITS
    steps: int
    tokens: int
    training: Points
    held_out: Points  # bits per byte; empty where nothing was held out
    tokens_per_second: float | None  # the median over logged steps


def read_curve(folder: Path, *, points: int = 40) -> Curve:
    """Raises UserError: there is no run, or it has logged nothing yet."""
    path = folder / METRICS
    records = [record for record in read_metrics(path) if "tokens" in record]
    learned = [record for record in records if record.get(NATS) is not None]
    if not learned:
        problem = "has no step with a loss yet" if path.exists() else "is not there"
        raise UserError(f"{path} {problem}: give the folder of a run of `griffin train`")
    unit = BITS if all(record.get(BITS) is not None for record in learned) else NATS
    held_out = [record for record in records if record.get(HELD_OUT) is not None]
    rates = [r["tokens_per_second"] for r in learned if r.get("tokens_per_second")]
    return Curve(
        name=folder.name or str(folder),
        unit=unit,
        steps=learned[-1]["step"],
        tokens=learned[-1]["tokens"],
        training=_points(learned, unit, at_most=points),
        held_out=_points(held_out, HELD_OUT, at_most=len(held_out)),
        tokens_per_second=statistics.median(rates) if rates else None,
    )


def _points(records: list[dict[str, Any]], name: str, *, at_most: int) -> Points:
    """Means over groups of records of one size, but for the last group, which may be smaller."""
    size = max(1, -(-len(records) // max(1, at_most)))
    out = Points([], [], [], [])
    for start in range(0, len(records), size):
        group = records[start : start + size]
        values = [record[name] for record in group]
        out.tokens.append(group[-1]["tokens"])
        out.y.append(statistics.fmean(values))
        out.low.append(min(values))
        out.high.append(max(values))
    return out
