# SPDX-License-Identifier: Apache-2.0
"""Every `griffin` command in the documentation and the examples has a verb and options that exist,
and those of `griffin train` and `griffin plan` are taken with their values."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import griffin_lm
from training.planning import plan_cli
from training.train_cli import options_given, parse

ROOT = Path(__file__).parents[2]
FLAGS = (ROOT / "tests" / "flags.txt").read_text("utf-8").splitlines()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").rglob("*.sh"))
END = re.compile(r"\s#(?:\s|$)|\s&&\s|\s;\s|\s\|\s|\s>\s|\s{3,}(?!-)|\.\.\.")  # of a command


def commands() -> dict[str, list[str]]:
    """By where it stands: the words of each command, without `griffin`."""
    by_place: dict[str, list[str]] = {}
    for page in (*PAGES, *SCRIPTS):
        text = page.read_text("utf-8")
        for block in shell_blocks(text) if page.suffix == ".md" else [text]:
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                match = re.search(r"(?:^|[\s\"/])griffin ([a-z].*)$", line)
                if match is None or line.lstrip().startswith("#"):
                    continue
                quoted = line[: match.start(1)].count('"') % 2 == 1
                command = match[1].split('"')[0] if quoted else match[1]
                words = shlex.split(END.split(command + " ")[0])
                by_place[f"{page.relative_to(ROOT)}: {' '.join(words)}"] = words
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        for argv in containers(list(yaml.safe_load_all(path.read_text("utf-8")))):
            by_place[f"{path.relative_to(ROOT)}: {' '.join(argv)}"] = argv[1:]
    return by_place


def shell_blocks(page: str) -> list[str]:
    """The fenced blocks of a page that name no language, or the shell's."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.S | re.M)
    return [block for language, block in fenced if language in ("", "bash", "sh")]


def containers(tree: object) -> list[list[str]]:
    """The commands in a manifest."""
    if isinstance(tree, list):
        return [argv for part in tree for argv in containers(part)]
    if not isinstance(tree, dict):
        return []
    own = [tree["command"]] if tree.get("command", [""])[0] == "griffin" else []
    return own + [argv for part in tree.values() for argv in containers(part)]


COMMANDS = commands()


def test_the_commands_are_found():
    assert len(COMMANDS) > 15
    pages = {where.split(":")[0] for where in COMMANDS}
    assert pages >= {"docs/training.md", "docs/data.md", "examples/slurm/pretrain.sh"}
    assert "examples/kubernetes/pretrain.yaml" in pages
    quoted = [words for words in COMMANDS.values() if "/mnt/shared/runs/griffin_1b" in words]
    assert ["train", "--run-dir", "/mnt/shared/runs/griffin_1b", "--steps", "48000"] in quoted


@pytest.mark.parametrize("where", COMMANDS)
def test_its_verb_and_its_options_exist(where: str):
    words = COMMANDS[where]
    assert words[0] in griffin_lm.VERBS
    verb = " ".join(words[:2]) if words[0] in ("bench", "data", "eval") else words[0]
    known = {line.removeprefix(f"{verb} ") for line in FLAGS if line.startswith(f"{verb} ")}
    for option in options_given(words):
        assert f"--{option}" in known | {"--help"}, f"{verb} has no --{option}"


def taken(verb: str) -> list[str]:
    return [where for where, words in COMMANDS.items() if words[0] == verb]


@pytest.mark.parametrize("where", taken("train"))
def test_griffin_train_takes_it(where: str):
    argv = COMMANDS[where][1:]
    if "preset" not in options_given(argv):  # a run that is there says the rest
        argv = ["--preset", "griffin_1b", *argv]
    parse(argv)


@pytest.mark.parametrize("where", taken("plan"))
def test_griffin_plan_takes_it(where: str):
    argv = COMMANDS[where][1:]
    if not argv[0].isupper():
        arguments = plan_cli.parse(argv)
        plan_cli.check(plan_cli.with_settings(arguments))
