# SPDX-License-Identifier: Apache-2.0
"""`griffin eval phonebook`: accuracy of looking a number up, by the size of the book."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.options import Model, ModelOptions, ModelPath, Result, ResultOptions, identity
from recurrentgemma.errors import UserError

DESCRIPTION = """Whether a model finds a name's number in a phonebook, by the number of entries.

Nothing is trained: a prompt is a random book, two worked examples and a name. An answer is right
where greedy decoding gives the whole number. Without a GPU a small model of bytes reads books of up
to 256 entries in a minute.

examples:
  griffin eval phonebook runs/demo
  griffin eval phonebook google/recurrentgemma-2b --entries 8 64 512 --out results/book
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhonebookArguments:
    path: ModelPath
    entries: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = (
        4,
        8,
        16,
        32,
        64,
        128,
        256,
    )
    """Sizes of the books; the shortest has 3, the longest 4,096."""
    questions: int = 64
    """Books, with one question each, of each size."""
    seed: int = 0
    """Other seeds make other books."""
    batch_size: int = 8
    """Prompts that are read side by side."""
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)

    def check(self) -> None:
        """Raises UserError: an option is out of range, or has no effect."""
        for name in ("questions", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")


def main(argv: list[str]) -> None:
    """Ask. Raises UserError: see phonebook.recall, options.py and results.py."""
    run(
        tyro.cli(
            PhonebookArguments, prog="griffin eval phonebook", description=DESCRIPTION, args=argv
        )
    )


def run(arguments: PhonebookArguments) -> dict[str, Any]:
    """The record that is shown. A size of book whose questions are answered is kept, and not asked
    again."""
    arguments.check()
    from eval.plots import Line, lines
    from eval.progress_bar import progress_bar
    from eval.results import Table, open_results, show
    from eval.tasks.continuations import ContinuationScorer
    from eval.tasks.phonebook import Recall, check_entries, recall

    check_entries(arguments.entries)
    lm = arguments.model.load(arguments.path)
    settings = {
        "model": identity(lm),
        "entries": arguments.entries,
        "questions": arguments.questions,
        "seed": arguments.seed,
    }
    with open_results(arguments.result.out, kind="phonebook", settings=settings) as results:
        if results.finished is None:
            scorer = ContinuationScorer(
                lm, batch_size=arguments.batch_size, mesh=arguments.model.make_mesh()
            )
            recalls: list[Recall] = []
            everything = arguments.questions * len(arguments.entries)
            with progress_bar("phonebook", everything, unit="questions") as bar:
                ready = 0

                def progress(count: int) -> None:
                    nonlocal ready
                    ready += count
                    bar.update(ready)

                for entries in arguments.entries:
                    kept = results.kept(f"entries-{entries}")
                    if kept is None:
                        one = recall(
                            lm,
                            scorer,
                            entries,
                            questions=arguments.questions,
                            seed=arguments.seed,
                            progress=progress,
                        )
                        results.keep(f"entries-{entries}", one._asdict())
                    else:
                        one = Recall(**kept.values)
                        progress(one.questions)
                    recalls.append(one)

            def draw(path: Path) -> None:
                low, high = zip(*(r.interval for r in recalls), strict=True)
                sizes, means = [r.entries for r in recalls], [r.accuracy for r in recalls]
                lines(
                    path,
                    [Line("whole numbers", sizes, means, low, high)],
                    title="Phonebook",
                    xlabel="entries in the book",
                    ylabel="accuracy (share of questions)",
                    log_x=True,
                    note=f"95% intervals, Wilson over {arguments.questions:,} questions",
                )

            columns = ("entries", "accuracy", "right", "questions", "tokens", "nats an answer")
            rows = [
                (r.entries, r.accuracy, r.right, r.questions, round(r.tokens), r.nats)
                for r in recalls
            ]
            results.finish(
                {
                    "entries": {
                        str(r.entries): {**r._asdict(), "accuracy": r.accuracy} for r in recalls
                    }
                },
                tables=[Table("Numbers found in a phonebook", columns, rows)],
                plots={"phonebook": draw},
            )
        record = results.finished
    assert record is not None
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    return record
