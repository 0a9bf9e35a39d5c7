# SPDX-License-Identifier: Apache-2.0
"""What holds for every source file: small, headed by a docstring, named for what it does."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels", "recurrentgemma", "checkpoints", "training", "eval", "serving")
SOURCES = sorted(
    [ROOT / "griffin_lm.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
VAGUE = re.compile(r"_?(utils?|common|helpers?|base|misc|managers?)")
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
MACHINE = re.compile(r"(?<![\w.])/(work|root|home|Users)/")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_walk_finds_the_sources():
    found = {name(path) for path in SOURCES}
    assert {"griffin_lm.py", "recurrentgemma/griffin.py", "kernels/__init__.py"} <= found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_source_file(path: Path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400, "two reasons to be read are two files"
    assert ast.get_docstring(ast.parse(text)), "the first lines say what the file is"


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_name_and_text(path: Path):
    text = path.read_text("utf-8")
    parts = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts]
    assert [part for part in parts if VAGUE.fullmatch(part)] == [], "a name that says nothing"
    assert UNFINISHED.findall(text) == [], "an open end belongs in an issue"
    assert MACHINE.findall(text) == [], "a path of one machine"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_carries_the_mark_of_the_name_guard(package: str):
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text("utf-8")))
    assert docstring is not None
    assert "griffin-lm" in docstring
