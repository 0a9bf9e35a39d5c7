# SPDX-License-Identifier: Apache-2.0
"""Names are nouns and verbs of the domain, and docs/glossary.md gives each word one meaning."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels", "recurrentgemma", "checkpoints", "training", "eval", "serving", "tests")
FILES = [ROOT / "griffin_lm.py", *sorted(p for n in PACKAGES for p in (ROOT / n).rglob("*.py"))]
NAMELESS = {
    *("found", "each", "said", "apart", "together", "over", "total", "present", "rest", "made"),
}
GLOSSARY = (ROOT / "docs/glossary.md").read_text("utf-8")


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of everything that a file names itself: not of what it only uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


@pytest.fixture(scope="module")
def names() -> dict[Path, list[tuple[str, int]]]:
    """Of every file, its own name among them."""
    return {path: [(path.stem, 0), *defined(ast.parse(path.read_text("utf-8")))] for path in FILES}


def nameless(name: str) -> bool:
    """Whether a name, without its letters of axes (`_BTE`), is a word that names nothing."""
    return re.sub(r"(?<=[a-z])_[A-Z0-9]+$", "", name).strip("_").lower() in NAMELESS


def test_names_name_something(names: dict[Path, list[tuple[str, int]]]):
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, of_file in names.items()
        for name, line in of_file
        if nameless(name)
    ] == []


def test_a_word_that_a_user_may_give_is_written_once():
    """`gemma`, which names a chat format, is gemma_chat.GEMMA everywhere else."""
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        if ROOT / "tests" not in path.parents
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value == "gemma"
    ]
    assert [place.split(":")[0] for place in places] == ["recurrentgemma/text/gemma_chat.py"]


def test_names_that_name_nothing_are_seen():
    code = """
def each(total, *, _over=None):
    found_M, (said, total_steps) = f(present=1, found=found)
    self.together = [made for made in rest]
    match x:
        case [first, *rest]: pass
    return made, total_steps
"""
    names = Counter(name for name, _ in defined(ast.parse(code)) if nameless(name))
    assert names == Counter(
        ["each", "total", "_over", "found_M", "said", "together", "made", "rest"]
    )


def test_a_word_of_the_glossary_stands_there_once():
    words = Counter(word.lower() for word in re.findall(r"\*\*([^*]+)\*\*", GLOSSARY))
    assert len(words) > 80
    assert [word for word, count in words.items() if count > 1] == []


def test_the_code_that_the_glossary_names_is_there(names: dict[Path, list[tuple[str, int]]]):
    known = {name for of_file in names.values() for name, _ in of_file}
    quoted = re.findall(r"`([A-Za-z_][\w.]*)`", GLOSSARY)
    parts = {part for text in quoted for part in text.removesuffix(".py").split(".")}
    code = {part for part in parts if re.search(r"[A-Z]{2}|[a-z][A-Z]|_", part)}
    assert {"OpenCheckpoint", "weights_BT", "plan_step"} <= code
    assert code - known == set()
