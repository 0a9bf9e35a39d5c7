# SPDX-License-Identifier: Apache-2.0
"""`griffin merge`: the arguments of `convert(..., adapters=...)` on the command line."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from checkpoints.hub_names import read_name, short_title
from checkpoints.model_json import config_named
from checkpoints.names import Format

EXAMPLES = """Add low-rank adapters (LoRA) to the weights of their base: a plain checkpoint.

BASE is a checkpoint of any format; ADAPTERS is a run of `griffin finetune --lora.rank N`, or a
directory of Hugging Face PEFT's with adapter_config.json, or one of templates with
hyper_adapter.json. Each may be a name on Hugging Face's hub.
Where a run's base is still where it was, `griffin convert RUN DST` does the same.

examples:
  griffin merge google/recurrentgemma-2b-it runs/mine merged                 our format
  griffin merge google/recurrentgemma-2b-it runs/mine merged-hf --to huggingface
  griffin merge recurrentgemma-2b-it peft-adapter merged --dtype bfloat16    two folders
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeArguments:
    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """The checkpoint that the adapters were trained on, of any format, or its name on a hub."""
    adapters: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTERS")]
    """A run, or a directory of PEFT's, or the name of such a repository on Hugging Face's hub."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A directory that does not exist or is empty; it appears whole or not at all."""
    to: Format = "griffin"
    """The format to write."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The dtype to write; by default the base's."""
    config: str | None = None
    """A preset, or one of our config.json files, for a base that does not say what it is."""
    code: str = ""
    """Of templates, the task whose code makes the adapter; nothing, where there is one alone."""


def main(argv: list[str]) -> int:
    """Merge. Raises ValueError, OSError or ImportError for what a user got wrong."""
    arguments = tyro.cli(MergeArguments, prog="griffin merge", description=EXAMPLES, args=argv)
    from checkpoints.convert import convert  # here: JAX takes a second to import
    from checkpoints.hub import pinned
    from checkpoints.load import open_adapters

    base, adapters = pinned(arguments.base), pinned(arguments.adapters)
    report = convert(
        base,
        arguments.out,
        arguments.to,
        config=None if arguments.config is None else config_named(arguments.config),
        dtype=arguments.dtype,
        adapters=adapters,
        code=arguments.code,
    )
    trained_on = open_adapters(adapters, arguments.code)[0].base
    if trained_on and not _is_base(base, trained_on):
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


def _is_base(base: str, trained_on: str) -> bool:
    """Whether a checkpoint is the one that adapters name: it lies there, or is the run of which
    that is the newest step, or has the same name on a hub, or the last part of that is the name of
    its folder."""
    from checkpoints.store import newest_whole

    mine, theirs = read_name(base), read_name(trained_on)
    if mine is not None and theirs is not None:
        return mine.same_model(theirs) and (not theirs.is_exact or mine == theirs)
    if not Path(trained_on).exists():
        return short_title(base) == short_title(trained_on)
    here, there = Path(base).resolve(), Path(trained_on).resolve()
    return here == there or (here in there.parents and newest_whole(here) == there)
