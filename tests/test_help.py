# SPDX-License-Identifier: Apache-2.0
"""Every module that can be run answers --help: with its docstring, at once, and nothing else."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("kernels", "recurrentgemma", "checkpoints", "eval", "training", "serving", "tests")
RUNNABLE = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if '\nif __name__ == "__main__":' in path.read_text("utf-8")
)


def test_the_walk_finds_them():
    assert {"training/compare.py", "kernels/measure/dot_bench.py", "tests/peers/scan.py"} <= set(
        RUNNABLE
    )


@pytest.mark.parametrize("path", RUNNABLE)
def test_help_is_the_docstring(path: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    module = compile((ROOT / path).read_text("utf-8"), path, "exec", dont_inherit=True)
    docstring = module.co_consts[0]
    assert isinstance(docstring, str)
    first = " ".join(docstring.split("\n\n")[0].split())
    assert first in shown
    assert "--help" in shown
