# SPDX-License-Identifier: Apache-2.0
"""Tasks of the lm-evaluation-harness, by their names or by their files, run on a model.

A task file is the harness's own YAML; one may say `dataset_path: json` and name JSONL files, so
that nothing is downloaded.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from recurrentgemma.errors import UserError, did_you_mean

BOOTSTRAPS = 1000  # draws for the standard error of a metric that has no formula for it


class Tasks(TaskManager):
    """The harness's, which says as a user's mistake what it cannot make a task of."""

    def load(self, task_list: Any) -> Any:
        files = [Path(name) for name in task_list if isinstance(name, str) and _is_path(name)]
        try:
            loaded = super().load(task_list)
        except (KeyError, TypeError, ValueError, TemplateError) as error:  # of a file's content
            for path in files:  # of an unknown metric its KeyError tells nothing
                for metric in _named_metrics(path):
                    if metric not in metric_registry:
                        raise _unknown_metric(metric, str(path)) from error
            raise UserError(
                f"the harness cannot load {', '.join(map(str, task_list))}: "
                f"{type(error).__name__}: {error}; expected a task of its form, which "
                "docs/evaluation.md shows: correct that in the task file"
            ) from error
        for name, task in loaded["tasks"].items():
            for metric, function in getattr(task, "_metric_fn_list", {}).items():
                if function is None and task.config.process_results is None:
                    raise _unknown_metric(metric, _file_of(name, files))
        return loaded


def named_tasks(names: Sequence[str], include: Path | None = None) -> tuple[TaskManager, list[str]]:
    """What finds the tasks, and what they are called there.

    names: of tasks, groups and tags of the harness, or paths of task files. include: a folder of
    task files that have names, too.
    Raises UserError: there is no such task, or file, or folder, or a file is no task's.
    """
    if include is not None and not include.is_dir():
        raise UserError(f"--include {include}: there is no such folder")
    files = [name for name in names if _is_path(name)]
    for name in files:
        _check_file(Path(name))
    by_name = [name for name in names if name not in files]
    manager = Tasks(include_path=include, include_defaults=False)
    if not set(by_name) <= set(manager.all_tasks):  # it reads thousands of files to know its own
        manager = Tasks(include_path=include)
    for name in by_name:
        if name not in manager.all_tasks:
            raise UserError(
                f"there is no task {name!r}{did_you_mean(name, manager.all_tasks)}: expected a "
                "name of the lm-evaluation-harness (`lm-eval ls tasks` lists them), one of "
                "--include, or a task file, as ./mine.yaml"
            )
    return manager, list(names)


def file_checksums(names: Sequence[str]) -> dict[str, str]:
    """Of the task files among the names, by name."""
    return {
        name: hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
        for name in names
        if _is_path(name)
    }


def run_tasks(
    model: LM,
    manager: TaskManager,
    names: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
    cache: Path | None = None,
) -> Mapping[str, Any]:
    """The harness's results. cache: a file that keeps each response, for a run that goes on."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # its bootstrap would fork a process with JAX
    simple_evaluate: Any = evaluator.simple_evaluate  # decorated, and without types then
    results = simple_evaluate(
        model=model,
        tasks=list(names),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=chat,
        system_instruction=system,
        use_cache=None if cache is None else str(cache),
        bootstrap_iters=BOOTSTRAPS,
        log_samples=False,
    )
    assert results is not None
    return results


def metrics(results: Mapping[str, Any]) -> list[tuple[str, str, float, float | None, int]]:
    """(task, metric, value, standard error, examples) of all tasks and groups. A metric that was
    computed behind a filter other than none is called metric,filter."""
    rows = []
    for task, numbers in results["results"].items():
        samples = results.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in numbers.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{filtered}")
            name = metric if filtered == "none" else key
            error = float(error) if isinstance(error, int | float) else None
            rows.append((task, name, float(value), error, int(samples)))
    return rows


def _unknown_metric(metric: str, where: str) -> UserError:
    meant = did_you_mean(metric, metric_registry)
    return UserError(
        f"{where}: metric {metric!r} is none of the harness's{meant}; "
        f"expected one of {', '.join(sorted(metric_registry))}"
    )


def _file_of(name: str, files: Sequence[Path]) -> str:
    """The file that says it is the task of this name; else the name."""
    for path in files:
        if any(key.value == "task" and of.value == name for key, of in _composed(path).value):
            return str(path)
    return f"task {name}"


def _named_metrics(path: Path) -> list[str]:
    """The metrics that a task file asks for, but for those of Hugging Face's `evaluate`."""
    listed = [of for key, of in _composed(path).value if key.value == "metric_list"]
    names = []
    for entry in [node for metrics in listed for node in metrics.value]:
        if isinstance(entry, yaml.MappingNode):
            keys = {key.value: of.value for key, of in entry.value}
            if "metric" in keys and "hf_evaluate" not in keys:
                names.append(keys["metric"])
    return names


def _composed(path: Path) -> Any:
    # The tags of the harness, such as !function, are not known here, and need not be.
    return yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)


def _is_path(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") or os.sep in name


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no task file {path}")
    try:
        node = _composed(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    if not {"task", "group"} & set(keys):
        raise UserError(
            f"{path} is no task file: expected the harness's YAML with `task:` or `group:`, and it "
            f"has {', '.join(keys) or 'no keys'}"
        )
