# SPDX-License-Identifier: Apache-2.0
"""Another distribution under one of our import names is told apart, and said so.

Side by side: the other package is found before ours (site-packages before a checkout).
Written over: both unpacked into one folder, and the other's `__init__.py` came last.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOREIGN = '"""Somebody else\'s package."""\nraise SystemExit("the other one was run")\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: our packages, unpacked."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(ROOT / "griffin_lm.py", folder)
    for package in ("kernels", "recurrentgemma", "checkpoints", "training", "eval", "serving"):
        (folder / package).mkdir()
        shutil.copy(ROOT / package / "__init__.py", folder / package)
    shutil.copy(ROOT / "recurrentgemma/griffin.py", folder / "recurrentgemma")
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder that comes before ours on sys.path."""
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """`python -I -c code`, with these folders first on sys.path and no griffin-lm installed."""
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n{code}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        timeout=60,
    )


def place(folder: Path, package: str, how: str, site: Path) -> None:
    where = (site if how == "written over" else folder) / package
    where.mkdir(exist_ok=True)
    (where / "__init__.py").write_text(FOREIGN, "utf-8")


def test_ours_is_accepted(site: Path):
    done = run("import recurrentgemma, checkpoints, training, eval, serving; print('fine')", site)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


@pytest.mark.parametrize("how", ["side by side", "written over"])
@pytest.mark.parametrize(
    ("package", "owner", "importer"),
    [
        ("kernels", "Hugging Face", "recurrentgemma"),
        ("recurrentgemma", "DeepMind", "checkpoints"),
        ("recurrentgemma", "DeepMind", "training"),
        ("recurrentgemma", "DeepMind", "eval"),
        ("recurrentgemma", "DeepMind", "serving"),
    ],
)
def test_the_other_one_is_named(
    site: Path, other: Path, how: str, package: str, owner: str, importer: str
):
    place(other, package, how, site)
    done = run(f"import {importer}", other, site)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"griffin_lm.NotOurs: `{package}` is not griffin-lm's"), done.stderr
    assert owner in last
    assert f"pip uninstall {package}" in last
    assert str((site if how == "written over" else other) / package) in last


@pytest.mark.parametrize("how", ["side by side", "written over"])
@pytest.mark.parametrize("package", ["kernels", "recurrentgemma"])
def test_the_command_says_it_in_one_line(site: Path, other: Path, how: str, package: str):
    place(other, package, how, site)
    code = "import griffin_lm; sys.argv[1:] = ['--version']; sys.exit(griffin_lm.main())"
    done = run(code, other, site)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: `{package}` is not griffin-lm's")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("regular", [True, False], ids=["package", "plain folder"])
def test_a_users_folder_of_the_same_name(site: Path, other: Path, regular: bool):
    (other / "checkpoints").mkdir()
    if regular:
        (other / "checkpoints" / "__init__.py").write_text("", "utf-8")
    done = run("import training; print('fine')", other, site)
    if regular:
        assert f"Python found {other / 'checkpoints'}" in done.stderr
        assert "Rename or move it" in done.stderr
    else:  # a plain folder gives way to a package further down the path
        assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_a_missing_package_is_said_to_be_missing(site: Path):
    shutil.rmtree(site / "kernels")
    done = run("import recurrentgemma", site)
    assert "NotOurs: griffin-lm's package `kernels` is missing" in done.stderr
