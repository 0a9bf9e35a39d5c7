# SPDX-License-Identifier: Apache-2.0
"""`griffin eval`: the table of its subcommands. Each stands with its options in a module of its
own, which is imported when it is called."""

from recurrentgemma.subcommands import Subcommand, listed, run

EVALUATIONS = {
    "perplexity": Subcommand(
        "eval.perplexity_cli:main", "loss and bits per byte of documents of any length"
    ),
    "extrapolation": Subcommand(
        "eval.extrapolation_cli:main", "loss by position, to many times the training length"
    ),
    "synthetic": Subcommand(
        "eval.tasks.synthetic_cli:main",
        "selective copying and induction heads: trained here, measured at any length",
    ),
    "phonebook": Subcommand(
        "eval.tasks.phonebook_cli:main", "whether a model finds a number in a long list"
    ),
    "tasks": Subcommand("eval.tasks.tasks_cli:main", "tasks of EleutherAI's lm-evaluation-harness"),
    "throughput": Subcommand(
        "eval.throughput_cli:main", "time per token against context and batch"
    ),
    "diagnostics": Subcommand(
        "eval.diagnostics.diagnostics_cli:main",
        "ranks, dead units, saturated gates, curvature, and whether it can still learn",
    ),
    "curves": Subcommand(
        "training.observe.curves_cli:main", "learning curves of runs, side by side"
    ),
    "dynamic": Subcommand(
        "eval.dynamic.dynamic_cli:main", "documents scored while the model learns from them"
    ),
}


def usage() -> str:
    """The text of `griffin eval --help`."""
    return f"""usage: griffin eval EVALUATION [OPTIONS]

Numbers about a model.

evaluations:
{listed(EVALUATIONS)}

With --out DIR the numbers are written there, with plots, and an evaluation that was stopped goes on
by the same command; `griffin report DIR...` makes one page of several. `griffin eval EVALUATION
--help` shows the options of one, with examples.
"""


def main(argv: list[str]) -> int:
    """Run the evaluation named by argv[0]. Raises UserError: there is no such evaluation."""
    expected = f"they are {', '.join(EVALUATIONS)}"
    return run(argv, EVALUATIONS, usage=usage(), unknown="no evaluation", expected=expected)
