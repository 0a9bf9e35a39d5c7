# SPDX-License-Identifier: Apache-2.0
"""`griffin eval tasks`: tasks of EleutherAI's lm-evaluation-harness."""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.dynamic.config import DynamicConfig
from eval.options import Model, ModelOptions, ModelPath, Result, ResultOptions, identity
from recurrentgemma.errors import MissingExtra, UserError
from recurrentgemma.sharding import MeshConfig

DESCRIPTION = """Evaluate a model on tasks of EleutherAI's lm-evaluation-harness, or on task files
in its form.

Texts are scored as `lm.score` does: behind bos, documents of any length with the state carried,
and a context once for all of its answers. Needs `pip install 'griffin-lm[harness]'`.

examples:
  griffin eval tasks google/recurrentgemma-2b --tasks arc_easy hellaswag --out results/tasks
  griffin eval tasks runs/demo --tasks ./mine.yaml --limit 100
  griffin eval tasks google/recurrentgemma-2b-it --tasks gsm8k --chat --num-fewshot 5
  griffin eval tasks runs/demo --tasks ./mine.yaml --adapt --dynamic.parameters mlp
"""

RATES = ("acc", "exact_match")  # metrics that are a share of examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksArguments:
    path: ModelPath
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")]
    """Names of tasks, groups or tags of the harness, or task files (YAML)."""
    include: Path | None = None
    """A folder of task files whose names --tasks may say."""
    num_fewshot: int | None = None
    """Worked examples before each question; by default as the task says."""
    limit: int | None = None
    """Only the first so many examples of each task."""
    chat: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write prompts as chats."""
    chat_template: str | None = None
    """How chats are written: gemma, or a file with a Jinja template; by default the checkpoint's
    own template, else Gemma's format."""
    system: str | None = None
    """A system message before each prompt."""
    adapt: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Dynamic evaluation: learn from a context before its answers, from a document while it is
    scored. Each request begins with the checkpoint's parameters."""
    dynamic: DynamicConfig = dataclasses.field(default_factory=DynamicConfig)
    statistics: Path | None = None
    """Gradient statistics for --dynamic.optimizer.algorithm rms: a file that `griffin eval dynamic
    --statistics.file` has written."""
    batch_size: int = 8
    """Rows that are read, or decoded, side by side; with --adapt it is one at a time."""
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)

    def check(self) -> None:
        """Raises UserError: an option is out of range, or has no effect."""
        for name, least in (("num_fewshot", 0), ("limit", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value}: expected at least {least}")
        if self.chat_template is not None and not self.chat:
            raise UserError("--chat-template has no effect without --chat")
        learns = self.dynamic != DynamicConfig() or self.statistics is not None
        if learns and not self.adapt:
            raise UserError("--dynamic and --statistics have no effect without --adapt")
        if self.adapt and self.model.mesh != MeshConfig():
            raise UserError("--mesh has no effect with --adapt, which reads one row at a time")
        if self.adapt and self.dynamic.replay.of == "text":
            raise UserError(
                "--dynamic.replay.of text: tasks have no text to replay; expected stream"
            )


def main(argv: list[str]) -> None:
    """Evaluate. Raises UserError: see harness_tasks.named_tasks, options.py and results.py;
    MissingExtra: the harness is not installed."""
    run(tyro.cli(TasksArguments, prog="griffin eval tasks", description=DESCRIPTION, args=argv))


def interval(value: float, error: float | None) -> tuple[float, float, float]:
    """A value with its 95% interval; nan where its standard error is not known."""
    reach = math.nan if error is None else 1.96 * error
    return value, value - reach, value + reach


def run(arguments: TasksArguments) -> dict[str, Any]:
    """The record that is shown. Each response is kept as it comes, and not computed again."""
    arguments.check()
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtra(
            "`griffin eval tasks` needs the lm-evaluation-harness: run "
            "`pip install 'griffin-lm[harness]'`"
        )
    import lm_eval

    from eval.dynamic.statistics import read
    from eval.plots import bars
    from eval.progress_bar import progress_bar
    from eval.results import PROGRESS, Table, open_results, show
    from eval.tasks.adapting import Adapting
    from eval.tasks.harness import AsItIs, HarnessModel
    from eval.tasks.harness_tasks import file_checksums, metrics, named_tasks, run_tasks
    from recurrentgemma.text.chat import use_template

    manager, names = named_tasks(arguments.tasks, arguments.include)
    lm = arguments.model.load(arguments.path)
    assert lm.tokenizer is not None
    if arguments.chat_template is not None:
        use_template(lm.tokenizer, arguments.chat_template)
    own = ("num_fewshot", "limit", "chat", "chat_template", "system")
    settings = {
        "model": identity(lm),
        "tasks": names,
        "files": file_checksums(names),
        "lm_eval": lm_eval.__version__,
        **{name: getattr(arguments, name) for name in own},
    }
    statistics = None
    if arguments.adapt:
        settings["dynamic"] = arguments.dynamic.to_json()
        if arguments.statistics is not None:
            statistics = read(arguments.statistics)
            settings["statistics"] = statistics.fingerprint
    folder = arguments.result.out
    with open_results(folder, kind="tasks", settings=settings) as results:
        if results.finished is None:
            results.keep("begun", {})
            with progress_bar("tasks", unit="requests") as bar:
                ready = 0

                def progress(count: int) -> None:
                    nonlocal ready
                    ready += count
                    bar.update(ready)

                size = arguments.batch_size
                if arguments.adapt:
                    reader = Adapting(lm, arguments.dynamic, statistics=statistics)
                else:
                    reader = AsItIs(lm, batch_size=size, mesh=arguments.model.make_mesh())
                model = HarnessModel(lm, batch_size=size, reader=reader, progress=progress)
                given = run_tasks(
                    model,
                    manager,
                    names,
                    num_fewshot=arguments.num_fewshot,
                    limit=arguments.limit,
                    chat=arguments.chat,
                    system=arguments.system,
                    cache=None if folder is None else folder / PROGRESS / "responses",
                )
            rows = metrics(given)
            if not rows:
                raise UserError(
                    f"the harness computed no metric of {', '.join(names)}: name such as belong to "
                    "the task's output_type in its metric_list, as acc does to multiple_choice"
                )
            # Perplexities and the like have no common axis.
            shown = {
                f"{task} {metric}": interval(value, error)
                for task, metric, value, error, _ in rows
                if metric.startswith(RATES)
            }

            def draw(path: Path) -> None:
                bars(
                    path,
                    shown,
                    title="Tasks of the lm-evaluation-harness",
                    ylabel="share of examples",
                    note="95% intervals: 1.96 standard errors",
                )

            versions = {task: str(version) for task, version in given["versions"].items()}
            results.finish(
                {
                    "tasks": {
                        task: {metric: value for name, metric, value, *_ in rows if name == task}
                        for task in dict.fromkeys(row[0] for row in rows)
                    },
                    "versions": versions,
                },
                tables=[
                    Table("Tasks", ("task", "metric", "value", "standard error", "examples"), rows)
                ],
                plots={"tasks": draw} if shown else {},
            )
        record = results.finished
    assert record is not None
    show(record, as_json=arguments.result.json, folder=folder)
    return record
