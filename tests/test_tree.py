# SPDX-License-Identifier: Apache-2.0
"""What holds for every source file: small, headed by a docstring, named for what it does, tested
by a file of its name."""

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
MEASURES = "prints measurements; test_help.py runs it as far as its --help"
UNTESTED = {  # source files without a test file of their name, and why
    "recurrentgemma/__init__.py": "the public names: test_public_names.py",
    "checkpoints/bench.py": MEASURES,
    "eval/perplexity_bench.py": MEASURES,
    "eval/dynamic/dynamic_bench.py": MEASURES,
    "kernels/measure/dot_bench.py": MEASURES,
    "kernels/measure/tpu_report.py": MEASURES,
    "recurrentgemma/generation/session_bench.py": MEASURES,
    "serving/bench/overhead.py": MEASURES,
    "training/bench/compile_bench.py": MEASURES,
    "training/bench/data_bench.py": MEASURES,
    "training/bench/diagnostics_bench.py": MEASURES,
    "training/bench/epoch_bench.py": MEASURES,
    "training/bench/loop_bench.py": MEASURES,
    "training/bench/remat_bench.py": MEASURES,
    "training/bench/share_bench.py": MEASURES,
    "training/recipes/memory/scan_bench.py": MEASURES,
    "training/recipes/modular/speed_bench.py": MEASURES,
    "training/recipes/plasticity/speed_bench.py": MEASURES,
    "training/recipes/rl/speed_bench.py": MEASURES,
}
SUITES = {  # one suite holds every implementation of an operation to its reference
    "kernels/linear_scan": "tests/kernels/test_linear_scan.py",
    "kernels/local_attention": "tests/kernels/test_local_attention.py",
    "kernels/rg_lru": "tests/kernels/test_rg_lru.py",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_walk_finds_the_sources():
    names = {name(path) for path in SOURCES}
    assert {"griffin_lm.py", "recurrentgemma/griffin.py", "kernels/__init__.py"} <= names


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


def defines(path: Path) -> bool:
    """Whether there is a function or a class to test; constants and names given again are not."""
    body = ast.parse(path.read_text("utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


def file_of_tests(path: Path) -> str:
    folder, stem = path.parent.relative_to(ROOT), path.stem
    if folder.as_posix() in SUITES:
        return SUITES[folder.as_posix()]
    return ("tests" / folder / f"test_{folder.name if stem == '__init__' else stem}.py").as_posix()


def test_every_source_file_has_a_test_file_of_its_name():
    tests = {name(path) for path in TESTS}
    untested = {
        name(path) for path in SOURCES if defines(path) and file_of_tests(path) not in tests
    }
    assert untested - UNTESTED.keys() == set()
    assert UNTESTED.keys() - untested == set(), "it has one, or is gone"
