# SPDX-License-Identifier: Apache-2.0
"""`griffin eval`: the table of its subcommands. Each stands with its options in a module of its
own, which is imported when it is called."""

import importlib
import sys
from typing import NamedTuple

from recurrentgemma.errors import UserError, did_you_mean


class Evaluation(NamedTuple):
    """Where a subcommand lives, as "module:function", and what it does, in one line."""

    target: str
    summary: str


EVALUATIONS = {
    "perplexity": Evaluation(
        "eval.perplexity_cli:main", "loss and bits per byte of documents of any length"
    ),
    "extrapolation": Evaluation(
        "eval.extrapolation_cli:main", "loss by position, to many times the training length"
    ),
    "synthetic": Evaluation(
        "eval.tasks.synthetic_cli:main",
        "selective copying and induction heads: trained here, measured at any length",
    ),
    "phonebook": Evaluation(
        "eval.tasks.phonebook_cli:main", "whether a model finds a number in a long list"
    ),
    "tasks": Evaluation("eval.tasks.tasks_cli:main", "tasks of EleutherAI's lm-evaluation-harness"),
    "throughput": Evaluation(
        "eval.throughput_cli:main", "time per token against context and batch"
    ),
    "diagnostics": Evaluation(
        "eval.diagnostics.diagnostics_cli:main",
        "ranks, dead units, saturated gates, curvature, and whether it can still learn",
    ),
    "dynamic": Evaluation(
        "eval.dynamic.dynamic_cli:main", "documents scored while the model learns from them"
    ),
}


def usage() -> str:
    """The text of `griffin eval --help`."""
    width = max(map(len, EVALUATIONS))
    lines = "\n".join(f"  {name:{width}}  {one.summary}" for name, one in EVALUATIONS.items())
    return f"""usage: griffin eval EVALUATION [OPTIONS]

Numbers about a model.

evaluations:
{lines}

With --out DIR the numbers are written there, with plots, and an evaluation that was stopped goes on
by the same command; `griffin report DIR...` makes one page of several. `griffin eval EVALUATION
--help` shows the options of one, with examples.
"""


def main(argv: list[str]) -> int:
    """Run the evaluation named by argv[0]. Raises UserError: there is no such evaluation."""
    if not argv:
        print(usage(), end="", file=sys.stderr)
        return 2
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name not in EVALUATIONS:
        raise UserError(
            f"{name!r} is no evaluation{did_you_mean(name, EVALUATIONS)}: they are "
            f"{', '.join(EVALUATIONS)}"
        )
    module, function = EVALUATIONS[name].target.split(":")
    return getattr(importlib.import_module(module), function)(arguments) or 0
