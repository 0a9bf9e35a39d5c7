# SPDX-License-Identifier: Apache-2.0
"""`griffin bench kernels`: how fast each implementation of each op is here."""

import dataclasses
import json
from typing import Annotated

import tyro

EXAMPLES = """Time every implementation of every kernel that runs here, against the machine.

examples:
  griffin bench kernels            under 50 seconds
  griffin bench kernels --full     more and larger shapes, both dtypes; minutes
  griffin bench kernels --json     a list of objects, for programs
"""
HEADER = ("op", "shape", "dtype", "pass", "implementation", "ms", "GB/s", "of limit", "x reference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """More and larger shapes, in float32 and bfloat16."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""


def main(argv: list[str]) -> int:
    """Time and print."""
    arguments = tyro.cli(
        BenchArguments, prog="griffin bench kernels", description=EXAMPLES, args=argv
    )
    from rich.console import Console
    from rich.table import Table

    from kernels.measure.bench import measure, table

    progress = Console(stderr=True)
    with progress.status("starting") as status:
        rows = measure(arguments.full, lambda text: status.update(text))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    shown = Table(*HEADER, box=None)
    for line in table(rows):
        shown.add_row(*line)
    Console(width=max(Console().width, 130)).print(shown)
    return 0
