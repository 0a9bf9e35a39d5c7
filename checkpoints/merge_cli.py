# SPDX-License-Identifier: Apache-2.0
"""`griffin merge`: the arguments of `convert(..., adapters=...)` on the command line."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from checkpoints.model_json import config_named
from checkpoints.names import Format

EXAMPLES = """Add low-rank adapters (LoRA) to the weights of their base: a plain checkpoint.

BASE is a checkpoint of any format; ADAPTERS is a run of `griffin finetune --lora.rank N`, or a
directory of Hugging Face PEFT's with adapter_config.json. Where a run's base is still where it was,
`griffin convert RUN DST` does the same.

examples:
  griffin merge recurrentgemma-2b-it runs/mine merged                        our format
  griffin merge recurrentgemma-2b-it runs/mine merged-hf --to huggingface
  griffin merge recurrentgemma-2b-it peft-adapter merged --dtype bfloat16
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeArguments:
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """The checkpoint that the adapters were trained on, of any format."""
    adapters: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTERS")]
    """A run, or a directory of PEFT's."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A directory that does not exist or is empty; it appears whole or not at all."""
    to: Format = "griffin"
    """The format to write."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The dtype to write; by default the base's."""
    config: str | None = None
    """A preset, or one of our config.json files, for a base that does not say what it is."""


def main(argv: list[str]) -> int:
    """Merge. Raises ValueError, OSError or ImportError for what a user got wrong."""
    arguments = tyro.cli(MergeArguments, prog="griffin merge", description=EXAMPLES, args=argv)
    from checkpoints.convert import convert  # here: JAX takes a second to import
    from checkpoints.load import open_adapters

    report = convert(
        arguments.base,
        arguments.out,
        arguments.to,
        config=None if arguments.config is None else config_named(arguments.config),
        dtype=arguments.dtype,
        adapters=arguments.adapters,
    )
    trained_on = open_adapters(arguments.adapters)[0].base
    if trained_on and not _is_named(arguments.base.resolve(), Path(trained_on)):
        print(
            f"note: {arguments.adapters} says that it was trained on {trained_on}; that "
            f"{arguments.base} has the same weights is taken on trust"
        )
    print(
        f"{arguments.base} with {arguments.adapters} -> {arguments.out} ({arguments.to}): "
        f"{report.parameters:,} parameters in {report.dtype}, {report.bytes:,} bytes, "
        f"{report.seconds:.1f} s"
    )
    return 0


def _is_named(base: Path, trained_on: Path) -> bool:
    """Whether a checkpoint is the one that adapters name: it lies there, or is the run of which
    that is the newest step, or has the name of one that is not here (Hugging Face's names)."""
    from checkpoints.store import newest_whole

    if not trained_on.exists():
        return trained_on.name == base.name
    trained_on = trained_on.resolve()
    return base == trained_on or (base in trained_on.parents and newest_whole(base) == trained_on)
