# SPDX-License-Identifier: Apache-2.0
"""Every command and every Python block of the documentation is run, or says why not."""

import shlex
import shutil
from pathlib import Path

import pytest

import griffin_lm
from tests.docs.blocks import RUN, SHOWN, Block, blocks, pages
from tests.docs.world import given, make_world

EVERY = {page: blocks(page) for page in pages()}
CODE = {page: [b for b in listed if b.language in RUN] for page, listed in EVERY.items()}
NAMES = {page.stem: page for page in CODE if CODE[page]}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


def test_every_block_says_its_language():
    unknown = [
        str(b) for listed in EVERY.values() for b in listed if b.language not in (*RUN, *SHOWN)
    ]
    assert not unknown, f"these blocks need a language, one of {', '.join((*RUN, *SHOWN))}"


def test_what_is_not_run_says_why():
    short = [str(b) for listed in CODE.values() for b in listed if 0 < len(b.not_run) < 8]
    assert not short


@pytest.mark.parametrize("name", NAMES)
def test_code_runs(name: str, world: Path, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The blocks of a page, in turn, in one folder and one namespace."""
    shutil.copytree(world, tmp_path / "here")  # its own, which it may write into
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GRIFFIN_CACHE", str(tmp_path / "cache"))
    namespace = given(name)
    for block in CODE[NAMES[name]]:
        if block.not_run:
            continue
        if block.language == "python":
            try:
                exec(compile(block.text, str(block), "exec"), namespace)
            except Exception as error:
                raise AssertionError(f"{block} failed: {type(error).__name__}: {error}") from error
        else:
            run_commands(block, capsys)


def run_commands(block: Block, capsys) -> None:
    commands = list(block.griffin_commands())
    assert len(commands) == len(block.commands()), (
        f"{block} has commands that are not griffin's: say why it is not run"
    )
    for arguments in commands:
        status = griffin_lm.main(arguments)
        printed = capsys.readouterr()
        assert status == 0, f"{block}: griffin {shlex.join(arguments)}: {status}\n{printed.err}"
