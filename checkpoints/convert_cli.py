# SPDX-License-Identifier: Apache-2.0
"""`griffin convert`: one checkpoint format into another."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from checkpoints.model_json import config_named
from checkpoints.names import Format
from recurrentgemma.errors import UserError

EXAMPLES = """Convert a checkpoint, of any format, to another format. Its tokenizer travels along.

examples:
  griffin convert google/recurrentgemma-2b my-2b --to griffin --dtype bfloat16
  griffin convert runs/demo demo-hf --to huggingface
  griffin convert runs/demo demo.pt --to deepmind-torch
  griffin convert their-orbax ours --to griffin --config their-config.json
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    src: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """Where to write: a directory, or for deepmind-torch also a name that ends in .pt."""
    to: Format
    """The format to write."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The dtype to write; by default the one stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    kaggle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """For deepmind-flax: without the `params` level, as the files on Kaggle are."""


def main(argv: list[str]) -> int:
    """Convert. Raises ValueError, OSError or ImportError for what a user got wrong."""
    arguments = tyro.cli(ConvertArguments, prog="griffin convert", description=EXAMPLES, args=argv)
    if arguments.kaggle and arguments.to != "deepmind-flax":
        raise UserError(f"--kaggle has no effect with --to {arguments.to}; leave it out")
    from checkpoints.convert import convert  # here: JAX takes a second to import

    report = convert(
        arguments.src,
        arguments.dst,
        arguments.to,
        config=None if arguments.config is None else config_named(arguments.config),
        dtype=arguments.dtype,
        params_wrapper=not arguments.kaggle,
    )
    print(
        f"{arguments.src} ({report.format}) -> {arguments.dst} ({arguments.to}): "
        f"{report.parameters:,} parameters in {report.dtype}, {report.bytes:,} bytes, "
        f"{report.seconds:.1f} s; "
        + (f"with {', '.join(report.tokenizer)}" if report.tokenizer else "no tokenizer")
    )
    return 0
