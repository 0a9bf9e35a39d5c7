# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/ run, with the small model of world.py in the demo's place."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.docs.world import make_world

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
ARGUMENTS = {"score_a_long_book": ["runs/demo", "book.txt"]}
SHOWN = {
    "finetune_and_chat": "(taught: 'The door is",
    "look_at_the_state": "tokens seen: a state of",
    "score_a_long_book": "bits per byte over the whole book",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    make_world(folder)
    return folder


def test_they_are_known():
    assert {path.stem for path in EXAMPLES} == set(SHOWN)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_it_runs(path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", [str(path), *ARGUMENTS.get(path.stem, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert SHOWN[path.stem] in capsys.readouterr().out
