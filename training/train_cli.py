# SPDX-License-Identifier: Apache-2.0
"""`griffin train`: TrainConfig on the command line, and nothing else.

Where the defaults of its options come from: with --preset from the run or model of that name, with
--run-dir alone from the run that is there, with --init-from from that checkpoint, with none of them
from tiny_bytes.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro

from checkpoints import processes
from checkpoints.hub_names import short_title
from checkpoints.load import open_checkpoint
from checkpoints.shapes import resolve_config
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig
from training import cluster, run
from training.configs import TrainConfig
from training.launch import Launch, remembered
from training.loop import train
from training.named_runs import run_named
from training.pretraining import SETTINGS
from training.run_folder import CONFIG
from training.start import complete, require_data

RATE_ON = 1e-4  # the learning rate of a checkpoint that is trained further, where none is given
FIRST = "tiny_bytes"  # the run of `griffin train` alone
EXAMPLES = """Train a model on text; a run that was stopped goes on where it stopped.

examples:
  griffin train --preset tiny_bytes                       a byte-level Griffin on Shakespeare
  griffin train --preset demo --text a.txt b.txt          the demo's model on your own files
  griffin train --preset griffin_1b --data.sources arrayrecord:tokens/web --run-dir runs/web
  griffin train --run-dir runs/web                        goes on with that run, whatever it was
  griffin train --init-from recurrentgemma-2b --text a.txt --run-dir runs/mine     that model, on
  griffin train --run-dir runs/web --steps 50000          and longer, if its schedule is wsd
  griffin generate runs/tiny_bytes "O Romeo, "            what it has learned
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Launch)
    preset: str = ""
    """A named run or a model preset: where the defaults of all other options come from. Without
    it they come from the run in --run-dir, else from the checkpoint --init-from; with none of
    these, from tiny_bytes."""
    run_dir: Path | None = None
    """Where the run is kept; runs/PRESET by default, or runs/NAME-more of what it is begun from. If
    it holds a run, that run goes on."""


def parse(argv: list[str]) -> TrainArguments:
    """The arguments, with the defaults that --preset or --run-dir chooses. Raises UserError: there
    is no such preset, or no run there."""
    given = options_given(argv)
    preset, run_dir = given.get("preset", ""), given.get("run-dir", "")
    sizes = {
        name: _number(given.get(option))
        for name, option in (
            ("steps", "steps"),
            ("batch_size", "batch-size"),
            ("sequence_length", "row-length" if "row-length" in given else "sequence-length"),
        )
    }
    is_run = bool(run_dir) and (Path(run_dir) / CONFIG).is_file()
    if given.get("init-from") and not preset and not is_run:
        config, launch = begun_from(given["init-from"], steps=sizes["steps"]), Launch()
    elif preset or not run_dir:
        preset = preset or FIRST
        config = run_named(preset, **sizes)
        launch = Launch(mesh=MeshConfig(data=1, fsdp=-1)) if preset in SETTINGS else Launch()
    else:
        config, launch = saved_run(Path(run_dir)), remembered(Path(run_dir))
    default = TrainArguments(config=config, launch=launch, preset=preset)
    return tyro.cli(
        TrainArguments, prog="griffin train", description=EXAMPLES, args=argv, default=default
    )


def begun_from(checkpoint: str, *, steps: int | None = None) -> TrainConfig:
    """A run of a checkpoint's model, by its own tokenizer and in float32, with a learning rate for
    a model that has learned already. Raises UserError: there is no such checkpoint."""
    model = resolve_config(opened := open_checkpoint(checkpoint), None, None)
    dtype = model.dtype if opened.config is not None else "bfloat16"
    config = run_named(FIRST)
    steps = config.steps if steps is None else steps
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, dtype=dtype, param_dtype="float32", remat="auto"),
        optimizer=dataclasses.replace(
            config.optimizer,
            learning_rate=RATE_ON,
            warmup_steps=min(round(0.03 * steps), steps - 1),
        ),
        steps=steps,
        tokenizer="",
        init_from=checkpoint,
    )


def options_given(argv: list[str]) -> dict[str, str]:
    """The options on a command line by name, each with the first word after it."""
    given = {}
    for word, after in zip(argv, [*argv, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            given[name.replace("_", "-")] = value if equals else after
    return given


def saved_run(run_dir: Path) -> TrainConfig:
    """The config of the run in a folder. Raises UserError: there is none."""
    if not (run_dir / CONFIG).is_file():
        if list(run_dir.glob("checkpoints/*/config")):
            raise UserError(
                f"{run_dir} has checkpoints and no config.json, which says how the run is trained: "
                f"copy that back into it, or begin another run from its parameters with "
                f"--init-from {run_dir}"
            )
        what = "does not exist"
        if run_dir.exists():
            what = "has no config.json" if run_dir.is_dir() else "is a file"
        raise UserError(
            f"{run_dir} {what}, so there is no run to go on with; to begin one there say which: "
            f"`griffin train --preset NAME --run-dir {run_dir} ...`"
        )
    return run.read_config(run_dir)


def check_text(argv: list[str], text: tuple[str, ...]) -> None:
    """Raises UserError for a `--text` with no file after it, which would mean the plays."""
    if not text and any(argument.split("=")[0] == "--text" for argument in argv):
        raise UserError("--text names no file; give the path of at least one UTF-8 text file")


def check_run_dir(run_dir: Path) -> None:
    """Raises UserError for a URL, which would become a folder of that name here."""
    if re.match(r"[a-z][a-z0-9+]*:/", str(run_dir)):
        raise UserError(
            f"--run-dir {run_dir}: a URL; a run is kept in a folder on a disk that all processes "
            f"share (a bucket can be mounted, docs/training.md)"
        )


def main(argv: list[str]) -> int:
    """Train; returns the exit status. Raises UserError, OSError or ImportError for what a user got
    wrong."""
    arguments = parse(argv)
    config, launch, preset = arguments.config, arguments.launch, arguments.preset
    check_text(argv, config.text)
    named = preset or f"{short_title(config.init_from)}-more"
    run_dir = arguments.run_dir or Path("runs") / named
    check_run_dir(run_dir)
    require_data(preset, config)
    is_begun = not preset and not (run_dir / CONFIG).is_file()
    if is_begun and not (config.text or config.data.sources):
        raise UserError(
            f"nothing to train {config.init_from} on: give --text, or --data.sources with sources "
            "of any kind (docs/data.md)"
        )
    cluster.start(launch.cluster)
    config = completed(config, preset, run_dir, launch, options_given(argv))
    done = train(config, run_dir, launch)
    return 0 if done else launch.stopped_status


def completed(
    config: TrainConfig, preset: str, run_dir: Path, launch: Launch, given: Mapping[str, str]
) -> TrainConfig:
    """The config with what follows from the data (start.complete), and from the run that is there
    already: its steps and its warm-up, where none are given, whatever the preset's are. The first
    process looks, for all."""
    mesh = launch.make_mesh()

    def look() -> str:
        filled = config
        saved = run.read_config(run_dir) if (run_dir / CONFIG).is_file() else None
        if saved is not None:
            filled = with_steps_of(saved, filled, given)
        if preset in SETTINGS or not filled.tokenizer:
            filled = complete(
                filled,
                tensor=1 if mesh is None else mesh.shape["tensor"],
                vocabulary_given=preset not in SETTINGS or "model.vocab-size" in given,
                saved=saved,
            )
        return json.dumps(run.content(filled))

    content = json.loads(processes.broadcast_text(look))
    return TrainConfig.from_json(GriffinConfig.from_json(content["model"]), content["train"])


def with_steps_of(saved: TrainConfig, config: TrainConfig, given: Mapping[str, str]) -> TrainConfig:
    """The config with the steps and the warm-up of a saved one, where none are given: they may have
    changed since the run was begun."""
    warmup = config.optimizer if "optimizer.warmup-steps" in given else saved.optimizer
    return dataclasses.replace(
        config,
        steps=config.steps if "steps" in given else saved.steps,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=warmup.warmup_steps),
    )


def _number(text: str | None) -> int | None:
    """What an option says, if that is a number above 0, such as 1_000: what is none is refused
    later, by tyro or by TrainConfig."""
    try:
        number = int(text or "")
    except ValueError:
        return None
    return number if number > 0 else None
