# SPDX-License-Identifier: Apache-2.0
"""`griffin eval tasks` runs task files, goes on where it was stopped, and says what is wrong."""

import importlib.util
import json
from pathlib import Path

import pytest

from eval.tasks.harness import HarnessModel
from eval.tasks.tasks_cli import main
from recurrentgemma.errors import MissingExtra, UserError
from tests.docs.world import write_model
from tests.eval.tasks.task_files import write_tasks


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch, capsys):
    write_model(tmp_path / "model")
    write_tasks(tmp_path)
    argv = [str(tmp_path / "model"), "--tasks", "my_choices", str(tmp_path / "answers.yaml")]
    argv += ["--include", str(tmp_path), "--devices", "1", "--json"]
    argv += ["--batch-size", "2", "--out", str(tmp_path / "out")]
    scored = HarnessModel._loglikelihood_tokens
    counts: list[int] = []

    def counted(self, requests, **kwargs):
        counts.append(len(requests))
        return scored(self, requests, **kwargs)

    def stopped(self, requests, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(HarnessModel, "_loglikelihood_tokens", counted)
    with monkeypatch.context() as patch:
        patch.setattr(HarnessModel, "generate_until", stopped)
        with pytest.raises(KeyboardInterrupt):
            main(argv)
    main(argv)
    assert counts == [7], "the second run had all of their responses"
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    assert 0 <= result["tasks"]["my_choices"]["acc"] <= 1
    assert result["tasks"]["my_answers"]["exact_match"] == 0
    assert result["versions"] == {"my_choices": "1.0", "my_answers": "1.0"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock", "result.json", "tasks.svg"}
    with pytest.raises(UserError, match=r"limit None \(here 1\)"):
        main([*argv, "--limit", "1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "./none.yaml"], r"there is no task file none\.yaml"),
        (["--tasks", "a", "--limit", "0"], "limit=0: expected at least 1"),
        (["--tasks", "a", "--chat-template", "gemma"], "no effect without --chat"),
        (["--tasks", "a", "--dynamic.parameters", "mlp"], "no effect without --adapt"),
        (["--tasks", "a", "--adapt", "--mesh.data", "2"], "--mesh has no effect with --adapt"),
    ],
)
def test_bad_options(options: list[str], message: str):
    with pytest.raises(UserError, match=message):
        main(["model", *options])


def test_a_metric_of_another_kind_of_task(tmp_path: Path):
    write_model(tmp_path / "model")
    path = write_tasks(tmp_path)["choices"]
    text = path.read_text().replace("metric: acc_norm", "metric: perplexity")
    path.write_text(text.replace("metric: acc\n", "metric: bits_per_byte\n"))
    with pytest.raises(UserError, match=r"computed no metric of .*choices\.yaml"):
        main([str(tmp_path / "model"), "--tasks", str(path), "--devices", "1"])


def test_a_model_that_learns(tmp_path: Path, capsys):
    write_model(tmp_path / "model")
    write_tasks(tmp_path)
    argv = [str(tmp_path / "model"), "--tasks", str(tmp_path / "books.yaml"), "--json"]

    def bits(*options: str) -> float:
        main([*argv, *options])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result["tasks"]["my_books"]["bits_per_byte"]

    learned = ["--adapt", "--dynamic.segment-length", "16", "--dynamic.parameters", "biases"]
    still = ["--dynamic.optimizer.algorithm", "none"]
    before = bits("--devices", "1")
    assert bits(*learned[:3], *still) == pytest.approx(before, rel=1e-5)
    adam = ["--dynamic.optimizer.algorithm", "adam", "--dynamic.optimizer.learning-rate", "0.01"]
    assert bits(*learned, *adam) < before - 0.05


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find_spec(name)
    )
    with pytest.raises(MissingExtra, match=r"griffin-lm\[harness\]"):
        main(["model", "--tasks", "arc_easy"])
