# SPDX-License-Identifier: Apache-2.0
"""The plots of evaluations: one look for all, with a title, named axes with units, and bands.

    lines(path, [Line("Griffin", x, mean, low, high)], title=..., xlabel="position (tokens)", ...)

Drawn as SVG without a display; the same numbers give the same file.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart, too."""
STYLES = ("-", "--", ":", "-.")
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "griffin-lm",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
}


@dataclass(frozen=True)
class Line:
    """A curve. low, high: the ends of its band, nan where there is none. kind, variant: numbers of
    its colour and its line style; by default each line has a colour of its own."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    kind: int | None = None
    variant: int = 0


def lines(
    path: Path,
    curves: Sequence[Line],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    top: float | None = None,
    marks: Mapping[str, float] | None = None,
    note: str = "",
) -> None:
    """Curves with their bands. top: where curves that go higher leave the plot. marks: vertical
    lines by name. note: a line below the plot."""
    with figure(path, title=title, xlabel=xlabel, ylabel=ylabel, note=note) as axes:
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
        if log_y:
            axes.set_yscale("log")
        for number, curve in enumerate(curves):
            colour = COLOURS[(number if curve.kind is None else curve.kind) % len(COLOURS)]
            style = STYLES[curve.variant % len(STYLES)]
            axes.plot(curve.x, curve.y, style, color=colour, marker="o", label=curve.label)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(
                    curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0
                )
        if top is not None:
            drawn = [y for curve in curves for y in (*curve.y, *(curve.low or ()))]
            bottom = min(y for y in drawn if math.isfinite(y))
            axes.set_ylim(bottom - 0.05 * (top - bottom), top)
        for name, x in (marks or {}).items():
            axes.axvline(x, color="0.6", linewidth=0.8, linestyle=":")
            axes.annotate(
                name,
                (x, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                textcoords="offset points",
                va="top",
                fontsize=7,
                color="0.4",
            )
        axes.legend()


def points(
    path: Path,
    groups: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    names: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
) -> None:
    """(x, y) by group, the lowest y for its x joined by a line: a Pareto plot, where less is better
    on both axes. names: of the points of a group, written beside those on that line."""
    with figure(path, title=title, xlabel=xlabel, ylabel=ylabel, note=note) as axes:
        if log_x:
            axes.set_xscale("log")
        best: list[tuple[float, float, str]] = []
        for number, (group, pairs) in enumerate(groups.items()):
            x, y = zip(*pairs, strict=True)
            axes.plot(x, y, "o", color=COLOURS[number % len(COLOURS)], label=group)
            labels = (names or {}).get(group, [""] * len(pairs))
            best += [(*pair, label) for pair, label in zip(pairs, labels, strict=True)]
        front: list[tuple[float, float, str]] = []
        for x, y, label in sorted(best):
            if math.isfinite(y) and (not front or y < front[-1][1]):
                front.append((x, y, label))
        axes.plot([p[0] for p in front], [p[1] for p in front], "-", color="0.5", linewidth=0.8)
        for x, y, label in front:
            axes.annotate(
                label, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, color="0.3"
            )
        axes.legend()


def bars(
    path: Path,
    values: Mapping[str, tuple[float, float, float]],
    *,
    title: str,
    ylabel: str,
    note: str = "",
) -> None:
    """(mean, low, high) by name; low and high nan where there is no interval."""
    with figure(path, title=title, xlabel="", ylabel=ylabel, note=note) as axes:
        for number, (name, (mean, low, high)) in enumerate(values.items()):
            error = None if math.isnan(low) else [[mean - low], [high - mean]]
            axes.bar(name, mean, yerr=error, color=COLOURS[number % len(COLOURS)], capsize=3)
        axes.tick_params(axis="x", rotation=30)


@contextlib.contextmanager
def figure(path: Path, *, title: str, xlabel: str, ylabel: str, note: str = "") -> Iterator[Any]:
    """Matplotlib's axes to draw on, saved at the end to `path` as SVG, whatever its name ends
    with."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(7, 4.2), layout="constrained")
        FigureCanvasSVG(drawn)
        axes = drawn.subplots()
        axes.set_title(title)
        axes.set_xlabel(xlabel if not note else f"{xlabel}\n{note}")
        axes.set_ylabel(ylabel)
        yield axes
        drawn.savefig(path, format="svg", metadata={"Date": None})
