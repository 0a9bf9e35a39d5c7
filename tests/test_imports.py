# SPDX-License-Identifier: Apache-2.0
"""The direction of imports, read off the syntax trees.

    kernels <- recurrentgemma <- checkpoints <- training.data <- eval <- training
        <- training.recipes

and `serving` may import all but `training`, training.data included. kernels knows arrays only;
recurrentgemma knows no optimizer and no HTTP.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from griffin_lm import VERBS

ROOT = Path(__file__).parent.parent
ORDER = (
    "kernels",
    "recurrentgemma",
    "checkpoints",
    "training.data",
    "eval",
    "training",
    "training.recipes",
)
MAY_IMPORT: dict[str, set[str]] = {
    layer: set(ORDER[: rank + 1]) for rank, layer in enumerate(ORDER)
}
MAY_IMPORT["serving"] = {"kernels", "recurrentgemma", "checkpoints", "eval", "serving"}
OPTIMIZER = {"optax", "grain", "qwix"}
HTTP = {"fastapi", "uvicorn", "starlette", "httpx", "requests", "openai", "urllib", "http"}
ARRAYS = {"jax", "jaxlib", "numpy"}  # all that kernels may import from outside
# Upward all the same, inside a function: `lm.load` reads checkpoints, a session is written to disk.
UPWARD_IN_FUNCTIONS = {
    "recurrentgemma/generation/lm.py": {"checkpoints"},
    "recurrentgemma/generation/session.py": {"checkpoints"},
}


def layer(module: str) -> str | None:
    """The layer a dotted module belongs to; None for what is not ours."""
    for part in ("training.recipes", "training.data"):
        if module == part or module.startswith(f"{part}."):
            return part
    top = module.split(".")[0]
    return top if top in MAY_IMPORT else None


def imports(tree: ast.Module) -> list[tuple[str, int, bool]]:
    """(module, line, inside a function) of each import; `from a import b` yields a and a.b."""
    modules = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                modules.extend((alias.name, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.module is not None, f"relative import in line {child.lineno}"
                assert child.level == 0, f"relative import in line {child.lineno}"
                modules.append((child.module, child.lineno, inside))
                modules.extend(
                    (f"{child.module}.{a.name}", child.lineno, inside) for a in child.names
                )
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            walk(child, inside or function)

    walk(tree, False)
    return modules


def offences(path: str, source: str) -> list[str]:
    """What in this file goes against the direction, one line each."""
    here = layer(path.removesuffix(".py").replace("/", "."))
    assert here is not None, path
    lines = []
    for module, line, inside in imports(ast.parse(source)):
        top, there = module.split(".")[0], layer(module)
        if inside and there in UPWARD_IN_FUNCTIONS.get(path, ()):
            continue
        if there is not None:
            wrong = there not in MAY_IMPORT[here]
        elif here == "kernels":
            wrong = top not in ARRAYS and top not in sys.stdlib_module_names
        else:
            wrong = here == "recurrentgemma" and top in OPTIMIZER | HTTP
        if wrong:
            lines.append(f"{path}:{line}: {here} may not import {module}")
    return lines


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in MAY_IMPORT
    for path in (ROOT / package.replace(".", "/")).rglob("*.py")
)


@pytest.mark.parametrize("path", sorted(set(FILES)))
def test_imports_point_down(path: str):
    assert offences(path, (ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("kernels/a.py", "import recurrentgemma.config", 1),
        ("kernels/a.py", "import jax.numpy as jnp\nimport functools", 0),
        ("kernels/a.py", "from flax import nnx", 2),
        ("recurrentgemma/a.py", "import optax", 1),
        ("recurrentgemma/a.py", "def f():\n    import checkpoints.load", 1),
        ("recurrentgemma/generation/lm.py", "def f():\n    import checkpoints.load", 0),
        ("recurrentgemma/generation/lm.py", "import checkpoints.load", 1),
        ("recurrentgemma/generation/lm.py", "def f():\n    import training.loop", 1),
        ("eval/a.py", "import training.step", 1),
        ("eval/a.py", "import training.data.documents", 0),
        ("training/data/a.py", "import training.step", 1),
        ("training/data/a.py", "import eval.perplexity", 1),
        ("serving/a.py", "from training.data import documents", 2),
        ("training/a.py", "import eval.perplexity, optax, checkpoints.store", 0),
        ("training/step.py", "if 1:\n    import training.recipes.a", 1),
        ("training/recipes/a.py", "import training.step", 0),
        ("serving/a.py", "import training.step", 1),
        ("serving/a.py", "import eval.perplexity, fastapi", 0),
        ("training/a.py", "import serving.engine.engine", 1),
    ],
)
def test_the_rules_bite(path: str, source: str, expected: int):
    assert len(offences(path, source)) == expected


def imported(files: dict[str, str]) -> dict[str, set[str]]:
    """Which of these modules each of them imports, inside functions too; but not for types alone,
    under TYPE_CHECKING, which Python never runs."""
    graph = {}
    for module, source in files.items():
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:  # a module of the package, or what the package defines
                    part = f"{node.module}.{alias.name}"
                    names.add(part if part in files else node.module or "")
        graph[module] = {name for name in names if name in files and name != module}
    return graph


def circles(files: dict[str, str]) -> list[list[str]]:
    """Modules that import each other, whatever the way."""
    graph = imported(files)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    below = {module: reached(module) for module in files}
    cycles = {
        tuple(sorted(m for m in below[module] if module in below[m]))
        for module in files
        if module in below[module]
    }
    return [list(names) for names in sorted(cycles)]


def test_no_circle_of_imports():
    files = {
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path
        for path in (*FILES, "griffin_lm.py")
    }
    assert circles({m: (ROOT / path).read_text("utf-8") for m, path in files.items()}) == []


def test_circles_are_found():
    files = {
        "training.a": "import training.b",
        "training.b": "def f():\n    from training import c",
        "training.c": "from training.a import x",
        "training.d": "import training.a\nif TYPE_CHECKING:\n    import training.e",
        "training.e": "import training.d",
    }
    assert circles(files) == [["training.a", "training.b", "training.c"]]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_found(verb: str):
    module, function = VERBS[verb].target.split(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} does not exist"
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in names
