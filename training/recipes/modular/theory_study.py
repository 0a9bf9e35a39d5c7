# SPDX-License-Identifier: Apache-2.0
"""Does a student that fits its training tasks fit all others? By support, and by its size.

theory: six modules, single ones and pairs trained on. The connected support is a ring of pairs, the
disconnected one two triangles, which the bridged one joins by one pair more. Errors are squared
errors over the target's power, on held-out pairs and on all triples. What differs from the paper:
codes are trained with the modules (theory.py, "persistent"), test codes are inferred by damped
Gauss-Newton steps, and 6,000 steps take the place of 60,000.
overparameterisation: how much wider, and how many more modules than the teacher. With persistent
codes and single draws there are as many tasks as 12; twice as many modules could give each task one
of its own, so continuous codes are drawn four times for each combination.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.intervals import Interval, t_interval
from recurrentgemma.errors import UserError
from training.recipes import findings
from training.recipes.experiment import (
    Cell,
    Experiment,
    Findings,
    Preset,
    PresetOptions,
    as_json,
)
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.modular.support import KINDS, Support, components, exactly
from training.recipes.modular.theory import TheoryArm, measured
from training.recipes.side_by_side import join, numbers_of, seeds_of, split

SMALL_ERROR = 1e-3
FAR = 10.0  # times: a worse error by so much is another outcome
PAPER_STEPS = 60_000


def theory_arms(**sizes: Any) -> dict[str, TheoryArm]:
    """Every support, and the learner without modules with three of them."""
    arms = {kind: TheoryArm(support=ring(kind), **sizes) for kind in KINDS}
    for kind in ("connected", "disconnected", "non-compositional"):
        arms[f"{kind}, read-out"] = dataclasses.replace(arms[kind], learner="read-out")
    return arms


def size_arms(**sizes: Any) -> dict[str, TheoryArm]:
    """Connected support; students of several sizes, with single codes and continuous ones."""
    arms = {}
    for wider, more in ((1, 1), (2, 1), (4, 1), (2, 2), (2, 4)):
        arm = TheoryArm(support=ring("connected"), wider=wider, more=more, **sizes)
        arms[f"units x{wider}, modules x{more}"] = arm
        arms[f"units x{wider}, modules x{more}, continuous"] = dataclasses.replace(
            arm, continuous=True, draws=4
        )
    return arms


def ring(kind: Any) -> Support:
    """Six modules in pairs."""
    return Support(kind=kind, modules=6, hot=2, reach=1)


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The seeds of an arm as one program; arms of equal shapes share it."""
    programs: dict[Any, Any] = {}
    for arm in dict.fromkeys(cell.arm for cell in cells):
        group = [cell for cell in cells if cell.arm == arm]
        choices: TheoryArm = group[0].choices
        splits = [choices.support.split(cell.seed) for cell in group]
        triples_CM = exactly(choices.support.modules, 3)[:, 0]
        masks = {
            "train": jnp.asarray(np.stack([one.train_CLM[:, 0] for one in splits])),
            "out": jnp.asarray(np.stack([one.out_CLM[:, 0] for one in splits])),
            "triples": jnp.asarray(np.stack([triples_CM] * len(group))),
        }
        structure = split(choices)[0]
        alike = dataclasses.replace(structure.support, kind="random")
        structure = dataclasses.replace(structure, support=alike)
        if structure not in programs:

            def run(numbers: Any, masks: Any, seed: Any, structure: TheoryArm = structure) -> Any:
                return measured(join(structure, numbers), masks, seed)

            programs[structure] = jax.jit(jax.vmap(run))
        numbers = jax.device_get(programs[structure](numbers_of(group), masks, seeds_of(group)))
        for number, cell in enumerate(group):
            of_seed = jax.tree.map(lambda leaf, number=number: leaf[number], numbers)
            count = components(splits[number].train_CLM)
            yield cell, as_json(of_seed) | {"components": count}


def conclude(arms: Arms) -> Findings:
    """A row for each arm, and a verdict on the theorem's three conditions."""
    rows = _rows(arms)
    return Findings(
        _verdict(arms, rows),
        {arm: {name: as_numbers(one) for name, one in of.items()} for arm, of in rows.items()},
        [
            findings.interval_table("Errors over the target's power", "support", _errors(rows)),
            findings.interval_table("Identification", "support", _modular(rows)),
        ],
        {
            "out": findings.bar_plot(
                {arm: of["held-out pairs"] for arm, of in rows.items()},
                title="Held-out pairs",
                ylabel="squared error / power",
            )
        },
    )


def conclude_sizes(arms: Arms) -> Findings:
    """Alignment and error by size."""
    rows = _rows(arms)
    words = [
        f"{arm}: alignment {of['alignment'].mean:.2f}, held-out {of['held-out pairs'].mean:.4f}"
        for arm, of in rows.items()
    ]
    return Findings(
        "; ".join(words) + ".",
        {arm: {name: as_numbers(one) for name, one in of.items()} for arm, of in rows.items()},
        [
            findings.interval_table("Errors over the target's power", "student", _errors(rows)),
            findings.interval_table("Identification", "student", _modular(rows)),
        ],
        {
            "alignment": findings.bar_plot(
                {arm: of["alignment"] for arm, of in rows.items()},
                title="Alignment of modules, connected support",
                ylabel="mean cosine over the teacher's units",
            )
        },
    )


def _rows(arms: Arms) -> dict[str, dict[str, Interval]]:
    rows: dict[str, dict[str, Interval]] = {}
    names = {"training pairs": "train", "held-out pairs": "out", "triples": "triples"}
    for arm, cells in arms.items():
        rows[arm] = {
            shown: t_interval(values(cells, "error", name)) for shown, name in names.items()
        }
        if "alignment" in cells[0]:
            rows[arm] |= {
                "alignment": t_interval(values(cells, "alignment")),
                "worst unit": t_interval(values(cells, "least_alignment")),
                "decoding R²": t_interval(values(cells, "decoding", "out")),
            }
    return rows


def _errors(rows: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Interval]]:
    columns = ("training pairs", "held-out pairs", "triples")
    return {arm: {name: of[name] for name in columns} for arm, of in rows.items()}


def _modular(rows: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Interval]]:
    columns = ("alignment", "worst unit", "decoding R²")
    return {
        arm: {name: of[name] for name in columns} for arm, of in rows.items() if "alignment" in of
    }


def _verdict(arms: Arms, rows: Mapping[str, Mapping[str, Interval]]) -> str:
    """By the theorem: connected ones generalise, the others do not."""
    words = []
    for arm, of in rows.items():
        error, fits = of["held-out pairs"].mean, of["training pairs"].mean < SMALL_ERROR
        aligned = f", alignment {of['alignment'].mean:.2f}" if "alignment" in of else ""
        generalises = "" if "read-out" in arm else _outcome(arms[arm], arm, error, fits)
        words.append(f"{arm}: held-out {error:.4f}{aligned}{generalises}")
    compared = []
    for kind in ("connected", "disconnected", "non-compositional"):
        alone = rows.get(f"{kind}, read-out")
        if kind in rows and alone is not None:
            ours, theirs = rows[kind]["held-out pairs"].mean, alone["held-out pairs"].mean
            compared.append(f"{kind} {'modules' if ours < theirs else 'read-out'}")
    better = f" The better learner on held-out pairs: {', '.join(compared)}." if compared else ""
    return "; ".join(words) + "." + better


def _outcome(cells: Sequence[Mapping[str, Any]], arm: str, error: float, fits: bool) -> str:
    """What the theorem says, and whether it was seen."""
    should = arm != "non-compositional" and all(cell["components"] == 1 for cell in cells)
    if not fits:
        return " (training tasks are not fitted: the theorem says nothing)"
    if should:
        return " (generalises, as claimed)" if error < SMALL_ERROR else " (should, does not)"
    if error > FAR * SMALL_ERROR:
        return " (does not generalise, as claimed)"
    return " (generalises all the same)"


def paper(options: PresetOptions) -> Experiment:
    """The authors' settings: codes inferred in an inner loop of 300 steps.

    Raises UserError: a name is no support or no size; epochs are given.
    """
    if options.epochs != (1,):
        raise UserError("--epochs has no effect with this preset: leave it out")
    arms = {}
    for kind in options.environments:
        for name in options.interventions:
            factors = name.split("x")
            if kind not in KINDS or len(factors) != 2 or not all(map(str.isdigit, factors)):
                raise UserError(
                    f"{kind!r} with {name!r}: expected a support ({', '.join(KINDS)}) and sizes "
                    "such as 2x2, units x modules over the teacher's"
                )
            arms[f"{kind}, {name}"] = TheoryArm(
                support=ring(kind),
                codes="inferred",
                wider=int(factors[0]),
                more=int(factors[1]),
                steps=options.steps,
                points=256,
                learning_rate=1e-3,
            )
    return dataclasses.replace(THEORY, name="paper-theory", arms=arms)


THEORY = Experiment(
    name="theory",
    question="does a student that fits its training tasks fit held-out combinations, by support?",
    cost="6 CPU minutes",
    arms=theory_arms(),
    measure=measure,
    conclude=conclude,
)
SIZES = Experiment(
    name="overparameterisation",
    question="does a student with more units or more modules than its teacher identify it?",
    cost="20 CPU minutes, an estimate",
    arms=size_arms(),
    measure=measure,
    conclude=conclude_sizes,
)
PAPER_THEORY = Preset(
    name="paper-theory",
    what="the authors' 60,000 steps of 64 tasks x 300 inner steps; --environments are supports, "
    "--interventions sizes such as 2x2 (a GPU's work: about 1e15 operations a run)",
    options=PresetOptions(
        environments=KINDS, epochs=(1,), interventions=("2x2",), steps=PAPER_STEPS
    ),
    experiment=paper,
)
