# SPDX-License-Identifier: Apache-2.0
"""A verb's table of subcommands, each in a module of its own, which is imported when it is called:
`griffin eval`, `griffin bench`."""

import importlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

from recurrentgemma.errors import UserError, did_you_mean


class Subcommand(NamedTuple):
    """Where it lives, as "module:function", and what it does, in one line."""

    target: str
    summary: str


def listed(table: Mapping[str, Subcommand]) -> str:
    """A line for each, as a usage text has them."""
    width = max(map(len, table))
    return "\n".join(f"  {name:{width}}  {one.summary}" for name, one in table.items())


def run(
    argv: list[str], table: Mapping[str, Subcommand], *, usage: str, unknown: str, expected: str
) -> int:
    """Run the one that argv[0] names, or print the usage; returns the exit status.

    Raises UserError: there is none of that name: "NAME is `unknown`: `expected`".
    """
    if not argv:
        print(usage, end="", file=sys.stderr)
        return 2
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage, end="")
        return 0
    if name not in table:
        raise UserError(f"{name!r} is {unknown}{did_you_mean(name, table)}: {expected}")
    module, function = table[name].target.split(":")
    return getattr(importlib.import_module(module), function)(arguments) or 0
