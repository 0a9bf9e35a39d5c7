# SPDX-License-Identifier: Apache-2.0
"""The study of dynamic evaluation: what each choice gains on text of other domains, what it costs
and what is forgotten (docs/dynamic_evaluation.md).

    python -m eval.dynamic.dynamic_study runs/austen --out results/dynamic \
        --domains own=text:persuasion.txt moby=text:moby_dick.txt code='text:lib/*.py' \
        --training 'text:austen/*.txt' --pieces 4 --tokens 8192          hours; see --parts

Every finished cell is kept in OUT/cells, so it goes on where it was stopped, and a run of several
parts takes what single ones have measured. The first domain is the model's own, held out: retention
is measured on it, and nothing should be lost there. Parts:

    grid       {all, mlp, recurrence, lora} x {sgd, rms with decay, adam} x segment lengths
    memories   {state carried, state reset} x {adapted, static}, and short against long windows
    layers     MLPs of the first, middle and last third; LoRA by kind of layer and rank; biases
    updates    an update every 1, 2, 4, 8 segments; gradients through the state; replay
"""

import dataclasses
import math
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.dynamic.config import (
    LORA,
    Algorithm,
    DynamicConfig,
    OptimizerConfig,
    Parameters,
    ReplayConfig,
)
from recurrentgemma.errors import UserError

PARAMETERS: tuple[Parameters, ...] = ("all", "mlp", "recurrence", "lora")
ALGORITHMS: tuple[Algorithm, ...] = ("sgd", "rms", "adam")
STATIC_LENGTH = 256
PARTS = ("grid", "memories", "layers", "updates")
COLUMNS = ("bits_per_byte", "gain", "low", "high", "FLOPs", "forgotten", "rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Runs or checkpoints; all learned from the same domain. NAME=PATH gives one a name."""
    out: Path
    """The folder of the cells, the result and the plots."""
    domains: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=SOURCE...")]
    """The model's own domain, held out, and others."""
    training: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")]
    """Text that the models were trained on, for gradient statistics and replay."""
    parts: tuple[str, ...] = PARTS
    """Which parts of the study to run."""
    pieces: int = 4
    """Of each domain so many pieces are read, side by side."""
    tokens: int = 8192
    """Of each piece."""
    tuning: int = 2048
    """Tokens of each piece on which learning rates are chosen."""
    lengths: tuple[int, ...] = (32, 128, 512)
    """Segment lengths of the grid; the other parts take the middle one."""
    segments: int = 512
    """Of the gradient statistics."""
    retention_tokens: int = 16384
    """Of the own domain, on which is measured what was forgotten."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a part: choices, whose learning rate is still to be searched from theirs."""

    part: str
    name: str
    choices: DynamicConfig


def plan(parts: tuple[str, ...], lengths: tuple[int, ...], layers: int) -> list[Variant]:
    """All variants of the parts, those of one program after the other."""
    middle = lengths[len(lengths) // 2]
    variants: list[Variant] = []

    def add(part: str, name: str, choices: DynamicConfig) -> None:
        if part in parts:
            variants.append(Variant(part, name, choices))

    def adapting(length: int, algorithm: Algorithm = "sgd", **changes: Any) -> DynamicConfig:
        decay = 1e-3 if algorithm == "rms" else 0.0
        optimizer = OptimizerConfig(algorithm=algorithm, decay=decay)
        return DynamicConfig(segment_length=length, optimizer=optimizer, **changes)

    for length in lengths:
        for parameters in PARAMETERS:
            for algorithm in ALGORITHMS:
                choices = adapting(length, algorithm, parameters=parameters)
                add("grid", f"{parameters} {algorithm} {length}", choices)
    for overlap in dict.fromkeys((0, middle, 4 * middle, 16 * middle)):
        window = adapting(middle, state="reset", overlap=overlap)
        add("memories", f"windows of {overlap + middle}, static", window.static())
        add("memories", f"windows of {overlap + middle}, adapted", window)
    add("memories", "state carried, static", adapting(middle).static())
    add("memories", "state carried, adapted", adapting(middle))
    third = max(1, layers // 3)
    for name, first in (("first", 0), ("middle", (layers - third) // 2), ("last", layers - third)):
        chosen = f"{first}-{first + third - 1}"
        add("layers", f"MLPs, {name} third", adapting(middle, parameters="mlp", layers=chosen))
    for name, pattern in (
        ("MLPs", ".*/mlp_block/.*"),
        ("recurrent blocks", ".*/recurrent_block/.*"),
        ("attention", ".*/attention_block/.*"),
    ):
        lora = dataclasses.replace(LORA, layers=pattern)
        add("layers", f"LoRA, {name}", adapting(middle, parameters="lora", lora=lora))
    for rank in (1, 4, 16):
        lora = dataclasses.replace(LORA, rank=rank, alpha=2.0 * rank)
        add("layers", f"LoRA, rank {rank}", adapting(middle, parameters="lora", lora=lora))
    add("layers", "biases", adapting(middle, parameters="biases"))
    for every in (1, 2, 4, 8):
        add("updates", f"update every {every}", adapting(middle, update_every=every))
    for overlap in (middle // 2, 2 * middle):
        add("updates", f"gradients go back {overlap}", adapting(middle, overlap=overlap))
    again = adapting(middle, overlap=middle, learn_overlap=True)
    add("updates", "overlap learned again", again)
    add("updates", "replay", adapting(middle, replay=ReplayConfig(rows=1)))
    return variants


def main(argv: list[str] | None = None) -> None:
    """Measure what is missing, and write the result."""
    arguments = tyro.cli(StudyArguments, description=__doc__, args=argv)
    study(arguments)


def study(arguments: StudyArguments) -> dict[str, Any]:
    """The content of result.json. Raises UserError: there is no such part, or too few domains."""
    for part in arguments.parts:
        if part not in PARTS:
            raise UserError(f"--parts {part}: expected some of {', '.join(PARTS)}")
    if len(arguments.domains) < 2 or any("=" not in domain for domain in arguments.domains):
        raise UserError("--domains: expected NAME=SOURCE of two domains or more")
    from eval.documents import SourceDocuments
    from eval.dynamic.retained import Retention
    from eval.dynamic.study_cells import DynamicCells, Subject, cut_domain
    from eval.options import ModelOptions, identity
    from eval.results import open_results

    settings: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(arguments).items()
        if name not in ("out", "models", "parts")
    }
    rows: list[dict[str, Any]] = []
    cells = DynamicCells(arguments.out / "cells")
    for given in arguments.models:
        name, path = given.split("=", 1) if "=" in given else (Path(given).name, given)
        lm = ModelOptions().load(path)
        assert lm.tokenizer is not None
        read = partial(SourceDocuments, tokenizer=lm.tokenizer, vocab_size=lm.config.vocab_size)
        domains = []
        for text in arguments.domains:
            label, source = text.split("=", 1)
            cut = {"count": arguments.pieces, "tokens": arguments.tokens}
            domains.append(cut_domain(label, read((source,)), lm, **cut, tuning=arguments.tuning))
        settings[name] = identity(lm)
        retention = Retention(domains[0].pieces, most=arguments.retention_tokens)
        subject = Subject(
            name, lm, read(arguments.training), retention, segments=arguments.segments
        )
        for variant in plan(arguments.parts, arguments.lengths, lm.config.num_layers):
            choices = variant.choices
            if choices.learns:
                choices = cells.rate(subject, domains, choices)
            for domain in domains:
                static = cells.measure(subject, domain, static_of(choices))
                cell = cells.measure(subject, domain, choices)
                rows.append(row(variant, name, domain.name, cell, static))
                print(
                    f"{name} {variant.part}: {variant.name} on {domain.name}: "
                    f"{cell['bits_per_byte']:.4f}, static {static['bits_per_byte']:.4f}",
                    file=sys.stderr,
                    flush=True,
                )
    with open_results(arguments.out, kind="dynamic study", settings=settings) as results:
        return results.finish(**summary(rows))


def static_of(choices: DynamicConfig) -> DynamicConfig:
    """Static scoring to compare with. Where the state is carried its numbers do not depend on how
    the text is cut, so that one length serves all."""
    if choices.state == "reset":
        return choices.static()
    return DynamicConfig(segment_length=STATIC_LENGTH).static()


def row(
    variant: Variant, model: str, domain: str, cell: dict[str, Any], static: dict[str, Any]
) -> dict[str, Any]:
    """A cell as a row of its part's table. The gain has an interval over pieces."""
    from eval.intervals import t_interval

    common = {
        "part": variant.part,
        "name": variant.name,
        "model": model,
        "domain": domain,
        "rate": cell["choices"]["optimizer"]["learning_rate"],
        "static": static["bits_per_byte"],
        "bits_per_byte": cell["bits_per_byte"],
        "FLOPs": cell["flops_per_token"],
        "static_FLOPs": static["flops_per_token"],
        "stopped": cell.get("stopped"),
    }
    if common["stopped"]:
        return common | {"gain": None, "low": None, "high": None, "forgotten": None}
    differences = [a - b for a, b in zip(static["pieces"], cell["pieces"], strict=True)]
    gain = t_interval(differences)
    ends = [None if math.isnan(x) else x for x in (gain.low, gain.high)]
    positions = [
        {"first": one["first"], "gain": other["loss"] - one["loss"]}
        for one, other in zip(cell["by_position"], static["by_position"], strict=True)
    ]
    return common | {
        "gain": gain.mean,
        "low": ends[0],
        "high": ends[1],
        "forgotten": cell["forgotten"],
        "by_position": positions,
        "seconds_per_token": cell["seconds"] / cell["tokens"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all rows: the result, a table of each part, the Pareto plots and the gain by position."""
    from eval import plots
    from eval.results import Table

    tables, drawn = [], {}
    for part in PARTS:
        of_part = [one for one in rows if one["part"] == part]
        if of_part:
            columns = ("model", "name", "domain", "static", *COLUMNS)
            cells = [[one[column] for column in columns] for one in of_part]
            tables.append(Table(f"Dynamic evaluation: {part}", columns, cells))
    for model, domain in dict.fromkeys((one["model"], one["domain"]) for one in rows):
        of = [one for one in rows if (one["model"], one["domain"]) == (model, domain)]
        grid = [one for one in of if one["part"] == "grid" and not one["stopped"]]
        if not grid:
            continue
        groups: dict[str, list[tuple[float, float]]] = {"static": []}
        labels: dict[str, list[str]] = {"static": []}
        for one in grid:
            kind, length = one["name"].rsplit(" ", 1)
            groups.setdefault(kind, []).append((one["FLOPs"], one["bits_per_byte"]))
            labels.setdefault(kind, []).append(f"{kind} {length}")
        groups["static"].append((grid[0]["static_FLOPs"], grid[0]["static"]))
        labels["static"].append("static")
        drawn[f"pareto_{model}_{domain}"] = partial(
            plots.points,
            groups=groups,
            names=labels,
            title=f"{model} on {domain}: bits per byte against cost",
            xlabel="FLOPs per token",
            ylabel="bits per byte",
            log_x=True,
        )
        best = sorted(grid, key=lambda one: one["bits_per_byte"])[:4]
        curves = [
            plots.Line(
                one["name"],
                [bucket["first"] for bucket in one["by_position"]],
                [bucket["gain"] for bucket in one["by_position"]],
            )
            for one in best
        ]
        drawn[f"gain_by_position_{model}_{domain}"] = partial(
            plots.lines,
            curves=curves,
            title=f"{model} on {domain}: gain by position in the stream",
            xlabel="tokens before (the bucket from here to the next)",
            ylabel="static less adapted (nats per token)",
            log_x=True,
        )
    shift = gain_by_shift(rows)
    if shift:
        drawn["gain_by_shift"] = partial(
            plots.points,
            groups=shift,
            title="Gain of the best of the grid against the amount of shift",
            xlabel="static bits per byte above the own domain's",
            ylabel="adapted less static (bits per byte)",
        )
    return {"result": {"rows": rows}, "tables": tables, "plots": drawn}


def gain_by_shift(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """By domain (static bits per byte above those of the own domain, which comes first; adapted
    less static of the grid's best)."""
    groups: dict[str, list[tuple[float, float]]] = {}
    grid = [one for one in rows if one["part"] == "grid" and not one["stopped"]]
    for model in dict.fromkeys(one["model"] for one in grid):
        of = [one for one in grid if one["model"] == model]
        own = of[0]["static"]
        for domain in dict.fromkeys(one["domain"] for one in of):
            here = [one for one in of if one["domain"] == domain]
            best = min(here, key=lambda one: one["bits_per_byte"])
            groups.setdefault(domain, []).append((best["static"] - own, -best["gain"]))
    return groups


if __name__ == "__main__":
    main()
