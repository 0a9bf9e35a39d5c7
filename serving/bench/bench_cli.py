# SPDX-License-Identifier: Apache-2.0
"""`griffin bench`: the table of its subcommands. Each stands with its options in a module of its
own, which is imported when it is called."""

import importlib
import sys
from typing import NamedTuple

from recurrentgemma.errors import UserError, did_you_mean


class Bench(NamedTuple):
    """Where a subcommand lives, as "module:function", and what it does, in one line."""

    target: str
    summary: str


BENCHES = {
    "kernels": Bench(
        "recurrentgemma.bench_cli:main", "time the kernels against the machine's limit"
    ),
    "serve": Bench(
        "serving.bench.load_cli:main", "load a server: latency and throughput, with percentiles"
    ),
}


def usage() -> str:
    """The text of `griffin bench --help`."""
    width = max(map(len, BENCHES))
    lines = "\n".join(f"  {name:{width}}  {one.summary}" for name, one in BENCHES.items())
    return f"""usage: griffin bench WHAT [OPTIONS]

Measure how fast something is here.

what:
{lines}

`griffin bench WHAT --help` shows the options of one, with examples.
"""


def main(argv: list[str]) -> int:
    """Measure what argv[0] names. Raises UserError: there is no such measurement."""
    if not argv:
        print(usage(), end="", file=sys.stderr)
        return 2
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name not in BENCHES:
        raise UserError(
            f"{name!r} is nothing to measure{did_you_mean(name, BENCHES)}: expected "
            f"{' or '.join(BENCHES)}"
        )
    module, function = BENCHES[name].target.split(":")
    return getattr(importlib.import_module(module), function)(arguments) or 0
