# SPDX-License-Identifier: Apache-2.0
"""`griffin info`: what a preset or a checkpoint is, counted from its shapes alone."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from checkpoints.hub_names import hint, near_known, read_name
from checkpoints.huggingface_json import huggingface_problems
from checkpoints.model_json import config_named
from recurrentgemma.config import Dtype, GriffinConfig
from recurrentgemma.counts import (
    flops_per_token,
    parameter_count,
    parameters_by_part,
    state_bytes,
)
from recurrentgemma.errors import UserError
from recurrentgemma.presets import PRESETS, preset

EXAMPLES = """Parameters, bytes of state and FLOPs per token of a preset or a checkpoint.

No parameter is read or allocated. Without a name it lists the presets.

examples:
  griffin info
  griffin info recurrentgemma_2b
  griffin info runs/demo
  griffin info google/recurrentgemma-9b-it                  from the hub, without its weights
  griffin info griffin_7b --sequence-length 8192 --json
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoArguments:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET_OR_PATH")] = ""
    """A preset's name, a run, a checkpoint of any format, or a model's name on a hub; by default
    all presets."""
    sequence_length: int | None = None
    """Tokens of the documents that FLOPs are averaged over; by default the windows are full."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


def describe(config: GriffinConfig, sequence_length: int | None = None) -> dict[str, Any]:
    """What `griffin info --json` prints.

    Raises:
      ValueError: sequence_length is below 1.
    """
    if sequence_length is not None and sequence_length < 1:
        raise UserError(f"sequence_length={sequence_length}: expected at least 1 token")
    parameters = parameter_count(config)
    return {
        "parameters": parameters,
        "parameters_by_part": parameters_by_part(config),
        "parameter_bytes": {"float32": 4 * parameters, "bfloat16": 2 * parameters},
        "state_bytes": state_bytes(config),
        "state_bytes_by_dtype": {
            dtype: state_bytes(dataclasses.replace(config, dtype=dtype))
            for dtype in get_args(Dtype)
        },
        "flops_per_token": flops_per_token(config, sequence_length),
        "not_for_transformers": huggingface_problems(config),
        "config": config.to_json(),
    }


def main(argv: list[str]) -> int:
    """Print it. Raises ValueError where the name is neither a preset nor a checkpoint."""
    arguments = tyro.cli(InfoArguments, prog="griffin info", description=EXAMPLES, args=argv)
    if not arguments.model:
        return _list_presets(arguments)
    facts = describe(_config(arguments.model, arguments.config), arguments.sequence_length)
    if arguments.json:
        print(json.dumps(facts))
    else:
        _print_table(arguments.model, facts)
    return 0


def _list_presets(arguments: InfoArguments) -> int:
    if arguments.config is not None:
        raise UserError("--config has no effect without a checkpoint; name one, or leave it out")
    facts = {name: describe(preset(name), arguments.sequence_length) for name in PRESETS}
    if arguments.json:
        print(json.dumps({"presets": facts}))
    else:
        _print_presets(facts)
    return 0


def _config(name: str, named: str | None) -> GriffinConfig:
    if name in PRESETS and named is None:
        return preset(name)
    if read_name(name) is None and not Path(name).exists():
        try:
            return preset(name)
        except UserError as error:
            near = hint(name) if "/" in name else near_known(name)
            raise UserError(f"{name!r} is not a path either{near}; {error}") from None
    from checkpoints.load import config_of  # here: Orbax takes a second to import

    return config_of(name, None if named is None else config_named(named))


def _print_presets(facts: dict[str, dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("preset", no_wrap=True)
    headings = ("parameters", "layers", "width", "vocabulary", "bytes of state", "MFLOPs")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, of_preset in facts.items():
        config, flops = of_preset["config"], of_preset["flops_per_token"]
        numbers = (of_preset["parameters"], config["num_layers"], config["width"])
        numbers += (config["vocab_size"], of_preset["state_bytes"], round(flops["forward"] / 1e6))
        table.add_row(name, *(f"{number:,}" for number in numbers))
    console = Console(width=100)
    console.print(table)
    print(
        "bytes of state: of one sequence, in the preset's dtype; MFLOPs: forward, a token\n"
        "griffin info PRESET says more of one, griffin info PATH the same of a run or a checkpoint"
    )


def _print_table(name: str, facts: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    config = facts["config"]
    table = Table(title=name, box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("parameters", f"{facts['parameters']:,}")
    for part, count in facts["parameters_by_part"].items():
        table.add_row(f"  {part}", f"{count:,}")
    table.add_row("bytes of parameters, bfloat16", f"{facts['parameter_bytes']['bfloat16']:,}")
    for dtype, size in facts["state_bytes_by_dtype"].items():
        table.add_row(f"bytes of state per sequence, {dtype}", f"{size:,}")
    for part, flops in facts["flops_per_token"].items():
        table.add_row(f"FLOPs per token, {part}", f"{flops:,.0f}")
    table.add_row("layers", f"{config['num_layers']} of {', '.join(config['pattern'])}")
    widths = (config["width"], config["mlp_width"], config["lru_width"])
    table.add_row("width, MLP, recurrence", ", ".join(map(str, widths)))
    heads = f"{config['num_heads']} of {config['head_dim']}"
    table.add_row("query heads, window", f"{heads}, {config['attention_window']}")
    Console(width=100).print(table)
    problems = facts["not_for_transformers"]
    print(f"  runs in transformers: {'no' if problems else 'yes'}")
    for problem in problems:
        print(f"    {problem}")
