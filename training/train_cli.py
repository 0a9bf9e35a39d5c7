# SPDX-License-Identifier: Apache-2.0
"""`griffin train`: TrainConfig on the command line, and nothing else."""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from recurrentgemma.errors import UserError
from training import cluster
from training.configs import TrainConfig, run_named
from training.launch import Launch
from training.loop import train

EXAMPLES = """Train a model on text; a run that was stopped goes on where it stopped.

examples:
  griffin train --preset tiny_bytes                       a byte-level Griffin on Shakespeare
  griffin train --preset demo --text a.txt b.txt          the demo's model on your own files
  griffin train --preset tiny --model.num-layers 3 --steps 2000 --run-dir runs/shallow
  griffin generate runs/tiny_bytes "O Romeo, "            what it has learned
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Launch)
    preset: str = "tiny_bytes"
    """A named run or a model preset: where the defaults of all other options come from."""
    run_dir: Path | None = None
    """Where the run is kept; runs/PRESET by default. If it holds a run, that run goes on."""


def parse(argv: list[str]) -> TrainArguments:
    """The arguments, with the defaults that --preset chooses. Raises UserError if it is
    unknown."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=TrainArguments.preset)
    preset = first.parse_known_args(argv)[0].preset
    default = TrainArguments(config=run_named(preset), preset=preset)
    return tyro.cli(
        TrainArguments, prog="griffin train", description=EXAMPLES, args=argv, default=default
    )


def check_text(argv: list[str], text: tuple[str, ...]) -> None:
    """Raises UserError for a `--text` with no file after it, which would mean the plays."""
    if not text and any(argument.split("=")[0] == "--text" for argument in argv):
        raise UserError("--text names no file; give the path of at least one UTF-8 text file")


def main(argv: list[str]) -> int:
    """Train; returns the exit status. Raises UserError, OSError or ImportError for what a user got
    wrong."""
    arguments = parse(argv)
    check_text(argv, arguments.config.text)
    run_dir = arguments.run_dir or Path("runs") / arguments.preset
    cluster.start(arguments.launch.cluster)
    done = train(arguments.config, run_dir, arguments.launch)
    return 0 if done else arguments.launch.stopped_status
