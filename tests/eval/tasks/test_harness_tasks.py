# SPDX-License-Identifier: Apache-2.0
"""Task files are found, or said what is wrong with them; what the harness computes of them is what
lm.score says."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.tasks.harness import HarnessModel
from eval.tasks.harness_tasks import metrics, named_tasks, run_tasks
from recurrentgemma.errors import UserError
from tests.eval.tasks.models import byte_model
from tests.eval.tasks.task_files import BOOKS, QUESTIONS, write_tasks


def test_results_are_those_of_score(tmp_path: Path):
    lm, paths = byte_model("griffin"), write_tasks(tmp_path)
    manager, names = named_tasks([str(path) for path in paths.values()])
    given = run_tasks(HarnessModel(lm), manager, names, cache=tmp_path / "responses")
    numbers = {(task, metric): value for task, metric, value, *_ in metrics(given)}

    def nats(context: str, continuation: str) -> float:
        # The harness moves a context's last spaces to the continuation.
        scored = lm.score(context + continuation)[len(context.rstrip()) :]
        return float(scored.sum(dtype=np.float64))

    right = [
        int(np.argmax([nats(q["question"], f" {c}") for c in q["choices"]]) == q["answer"])
        for q in QUESTIONS
    ]
    assert numbers["my_choices", "acc"] == pytest.approx(sum(right) / 3)
    words = [nats(q["question"], f" {q['choices'][q['answer']]}") for q in QUESTIONS]
    assert numbers["my_words", "perplexity"] == pytest.approx(math.exp(-sum(words) / 3), rel=1e-4)
    text_nats = sum(lm.score(book["text"]).sum(dtype=np.float64) for book in BOOKS)
    text_bytes = sum(len(book["text"]) for book in BOOKS)
    bits = -text_nats / text_bytes / math.log(2)
    assert numbers["my_books", "bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert numbers["my_answers", "exact_match"] == 0
    tasks = {task: count for task, *_, count in metrics(given)}
    assert tasks == {"my_choices": 3, "my_words": 3, "my_books": 2, "my_answers": 3}

    reader: Any = object()  # everything was kept
    manager, names = named_tasks(["my_words", "my_answers"], tmp_path)
    model = HarnessModel(lm, reader=reader)
    again = run_tasks(model, manager, names, cache=tmp_path / "responses")
    for task, metric, value, *_ in metrics(again):
        assert numbers[task, metric] == value


def test_what_is_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The tasks that the harness comes with are thousands of files beside this one.
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "own" / "manager.py"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "one.yaml").write_text("task: of_the_harness\n")
    (tmp_path / "wrong.yaml").write_text("a: [1")
    (tmp_path / "other.yaml").write_text("name: x\nsize: 1\n")
    write_tasks(tmp_path)
    for names, include, message in (
        ([str(tmp_path / "none.yaml")], None, r"there is no task file .*none\.yaml"),
        (["my_wrds"], tmp_path, r"no task 'my_wrds' \(did you mean 'my_words'\?\)"),
        (["of_the_harnes"], None, r"did you mean 'of_the_harness'\?"),
        (["my_words"], tmp_path / "nowhere", "there is no such folder"),
        ([str(tmp_path / "wrong.yaml")], None, r"wrong\.yaml is not YAML"),
        ([str(tmp_path / "other.yaml")], None, r"no task file: .* it has name, size"),
    ):
        with pytest.raises(UserError, match=message):
            named_tasks(names, include)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        ("output_type: multiple_choice", "output_type: guess", "ValueError: .*'guess'"),
        ("test_split: test", "test_splt: test", "TypeError: .*'test_splt'"),
        ("{{question}}", "{{qestion}}", "UndefinedError: 'qestion' is undefined"),
    ],
)
def test_what_the_harness_makes_no_task_of(line: str, other: str, message: str, tmp_path: Path):
    path = write_tasks(tmp_path)["choices"]
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, other))
    manager, names = named_tasks([str(path)])
    with pytest.raises(UserError, match=rf"cannot load .*{path.name}: {message}"):
        manager.load(names)


@pytest.mark.parametrize("more", ["", "    aggregation: mean\n    higher_is_better: true\n"])
def test_a_metric_that_the_harness_does_not_know(more: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)  # it would look on the network
    path = write_tasks(tmp_path)["choices"]
    text = path.read_text()
    assert "metric: acc\n" in text
    path.write_text(text.replace("metric: acc\n", f"metric: brier_scor\n{more}"))
    manager, names = named_tasks([str(path)])
    message = (
        rf"{path.name}: metric 'brier_scor' .*\(did you mean 'brier_score'\?\); expected .*acc"
    )
    with pytest.raises(UserError, match=message):
        manager.load(names)
