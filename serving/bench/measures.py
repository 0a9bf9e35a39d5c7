# SPDX-License-Identifier: Apache-2.0
"""The numbers of a load: latencies with percentiles, throughput, errors; their table and plots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.plots import Line, lines
from eval.results import Table
from serving.bench.load import Load, Measured

PERCENTILES = (50, 90, 99)
LATENCIES = {
    "ttft": "to the first token",
    "gap": "between two pieces of text",
    "time_per_token": "a token after the first",
    "request": "of a whole request",
}
CURVE = (*range(100), 99.5, 99.9, 100)  # percentiles that are drawn


def numbers(load: Load, measured: Measured) -> dict[str, Any]:
    """Of one load, JSON. Seconds; latencies of requests without an error alone."""
    good = [answer for answer in measured.answers if answer.error is None]
    samples = {
        "ttft": [answer.ttft for answer in good if answer.ttft is not None],
        "gap": [gap for answer in good for gap in answer.gaps],
        "time_per_token": [a.time_per_token for a in good if a.time_per_token is not None],
        "request": [answer.took for answer in good],
    }
    seconds = max(measured.seconds, 1e-9)
    generated, read = (sum(getattr(a, name) for a in good) for name in ("tokens", "prompt_tokens"))
    errors = Counter(answer.error for answer in measured.answers if answer.error is not None)
    return {
        "load": load.name,
        "clients": load.clients,
        "rate": load.rate,
        "requests": len(measured.answers),
        "errors": sum(errors.values()),
        "errors_by_message": dict(errors.most_common(10)),
        "seconds": seconds,
        "requests_per_second": len(good) / seconds,
        "tokens_per_second": generated / seconds,
        "prompt_tokens_per_second": read / seconds,
        "tokens": generated,
        "prompt_tokens": read,
        "latencies": {name: _summary(values) for name, values in samples.items()},
        "curves": {name: _curve(values) for name, values in samples.items()},
    }


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    names = [f"p{percentile}" for percentile in PERCENTILES]
    if not values:
        return dict.fromkeys(("mean", *names, "most"))
    percentiles = np.percentile(values, PERCENTILES).tolist()
    by_name = dict(zip(names, percentiles, strict=True))
    return {"mean": float(np.mean(values))} | by_name | {"most": max(values)}


def _curve(values: Sequence[float]) -> list[float]:
    return np.percentile(values, CURVE).tolist() if values else []


def tables(loads: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Throughput, and each latency in milliseconds."""
    columns = ("load", "requests", "errors", "seconds", "requests/s", "tokens/s", "prompt tokens/s")
    fields = (
        *("load", "requests", "errors", "seconds"),
        *("requests_per_second", "tokens_per_second", "prompt_tokens_per_second"),
    )
    throughput = Table("Throughput", columns, [[load[field] for field in fields] for load in loads])
    summaries = ("mean", *(f"p{p}" for p in PERCENTILES), "most")
    rows = [
        [load["load"], name, *(_milliseconds(load["latencies"][name][key]) for key in summaries)]
        for name in LATENCIES
        for load in loads
    ]
    return [throughput, Table("Latency (ms)", ("load", "latency", *summaries), rows)]


def plots(loads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By name, what draws it to a path: a curve of percentiles for each latency, and, of several
    loads, throughput."""
    drawn = {
        name: _curves(loads, name)
        for name in LATENCIES
        if any(load["curves"][name] for load in loads)
    }
    by_clients = [load for load in loads if load["clients"] is not None]
    if len(by_clients) > 1:
        drawn["throughput"] = _throughput(by_clients)
    return drawn


def _curves(loads: Sequence[Mapping[str, Any]], name: str) -> Any:
    def draw(path: Path) -> None:
        curves = [
            Line(load["load"], CURVE, [1000 * value for value in load["curves"][name]])
            for load in loads
            if load["curves"][name]
        ]
        title = f"Time {LATENCIES[name]}"
        lines(path, curves, title=title, xlabel="percentile", ylabel="milliseconds", log_y=True)

    return draw


def _throughput(loads: Sequence[Mapping[str, Any]]) -> Any:
    def draw(path: Path) -> None:
        x, y = zip(*((load["clients"], load["tokens_per_second"]) for load in loads), strict=True)
        curves = [Line("generated", x, y)]
        lines(path, curves, title="Throughput", xlabel="clients", ylabel="tokens/s", log_x=True)

    return draw


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
