# SPDX-License-Identifier: Apache-2.0
"""A folder of results: what was kept is there after a kill, and another evaluation is refused."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from eval.results import Table, as_text, open_results, read_result, show
from recurrentgemma.errors import UserError

SETTINGS = {"model": "abc", "data": {"sources": ["text:a"], "fingerprint": "def"}, "length": 8}


def test_what_was_kept_is_there_after_a_kill(tmp_path: Path):
    arrays = {"nats": np.arange(3.0), "half": np.ones((1, 2), ml_dtypes.bfloat16)}
    with open_results(tmp_path / "out", kind="perplexity", settings=SETTINGS) as results:
        assert (results.kept("rows"), results.kept_names()) == (None, [])
        results.keep("rows", {"next": 1})
        results.keep("rows", {"next": 2}, arrays)
    (tmp_path / "out/progress/.other.safetensors.1.tmp").write_text("half a file")
    with open_results(tmp_path / "out", kind="perplexity", settings=SETTINGS) as results:
        kept = results.kept("rows")
        assert kept is not None
        assert kept.values == {"next": 2}
        np.testing.assert_equal(kept.arrays, arrays)
        assert results.kept_names() == ["rows"]


def test_the_result_takes_its_place(tmp_path: Path, capsys):
    table = Table("Loss", ["model", "nats per token"], [["a", 1.25], ["b", None]])
    with open_results(tmp_path, kind="perplexity", settings=SETTINGS) as results:
        results.keep("rows", {})
        plots = {"loss": lambda path: path.write_text("<svg/>")}
        record = results.finish({"loss": 1.25}, tables=[table], plots=plots)
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "result.json", "loss.svg"}
    assert (tmp_path / "loss.svg").read_text() == "<svg/>"
    assert read_result(tmp_path) == record
    assert record["settings"] == SETTINGS
    assert record["versions"].keys() >= {"griffin-lm", "jax"}
    with open_results(tmp_path, kind="perplexity", settings=SETTINGS) as results:
        assert results.finished == record
    show(record, as_json=True, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["a", "1.2500"] for line in lines)
    assert json.loads(lines[-1]) == {"loss": 1.25}


def test_an_interrupt_tells_what_is_kept(tmp_path: Path, capsys):
    def stopped(folder: Path | None, keep: bool) -> None:
        with open_results(folder, kind="perplexity", settings=SETTINGS) as results:
            if keep:
                results.keep("rows", {})
            raise KeyboardInterrupt

    def interrupted(folder: Path | None, keep: bool) -> str:
        with pytest.raises(KeyboardInterrupt):
            stopped(folder, keep)
        return capsys.readouterr().err

    assert interrupted(None, False) == "interrupted: nothing is kept without --out DIR\n"
    out = tmp_path / "out"
    assert interrupted(out, False) == (
        f"interrupted: nothing was kept in {out} yet: the same command begins anew\n"
    )
    assert interrupted(out, True) == (
        f"interrupted: {out}/progress has what was kept last: the same command goes on\n"
    )


def test_a_table_shows_names_as_they_are(capsys):
    long = "text:" + "folder/" * 20 + "[a-f]*.txt"
    title = "A title that is wider than its table"
    table = Table(title, ["source", "loss [nats]"], [["text:[a-f]*.txt", 1.5], [long, 2.5]])
    show({"tables": [table._asdict()], "result": {}}, as_json=False)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == title
    assert any(line.split() == ["text:[a-f]*.txt", "1.5000"] for line in lines)
    assert long in "".join(line.split()[0] for line in lines[2:]), "folded, not cut"


def test_another_evaluation_is_refused_by_name(tmp_path: Path):
    with open_results(tmp_path, kind="perplexity", settings=SETTINGS) as results:
        results.keep("rows", {})
        with (
            pytest.raises(UserError, match="is being written by another process"),
            open_results(tmp_path, kind="perplexity", settings=SETTINGS),
        ):
            pass
    other = {**SETTINGS, "data": {"sources": ["text:b"], "fingerprint": "def"}}
    for _ in ("while it runs", "when it is over"):
        with (
            pytest.raises(UserError, match=r"data.sources \['text:a'\] \(here \['text:b'\]\)"),
            open_results(tmp_path, kind="perplexity", settings=other),
        ):
            pass
        with (
            pytest.raises(UserError, match="has results of perplexity, and this is dynamic"),
            open_results(tmp_path, kind="dynamic", settings=SETTINGS),
        ):
            pass
        with open_results(tmp_path, kind="perplexity", settings=SETTINGS) as results:
            results.finish({})


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no result.json: expected the --out"):
        read_result(tmp_path)
    (tmp_path / "study" / "cells").mkdir(parents=True)
    with pytest.raises(UserError, match="has not come to its end: run the same command again"):
        read_result(tmp_path / "study")
    with open_results(tmp_path, kind="perplexity", settings=SETTINGS) as results:
        results.keep("rows", {})
        (tmp_path / "progress/rows.safetensors").write_bytes(b"x" * 20)
        with pytest.raises(UserError, match=r"rows.safetensors is damaged"):
            results.kept("rows")
    with pytest.raises(UserError, match="has not come to its end"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"version": 99}')
    with pytest.raises(UserError, match="version 99"):
        read_result(tmp_path)
    with (
        pytest.raises(UserError, match="is a file: --out takes a folder"),
        open_results(tmp_path / "result.json", kind="perplexity", settings={}),
    ):
        pass


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with open_results(None, kind="perplexity", settings=SETTINGS) as results:
        results.keep("rows", {})
        assert results.kept("rows") is None
        record = results.finish({"loss": 1.0}, plots={"loss": lambda path: path.write_text("")})
    assert record["result"] == {"loss": 1.0}
    assert list(tmp_path.iterdir()) == []


def test_numbers_for_people():
    values = [None, True, "a", 1234567, 0.5, 0.00012346, 123456.7]
    assert list(map(as_text, values)) == [
        *("", "True", "a", "1,234,567", "0.5000", "0.0001235", "1.235e+05"),
    ]
