# SPDX-License-Identifier: Apache-2.0
"""A table of subcommands: what runs, what is printed, what is refused."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.subcommands import Subcommand, listed, run

TABLE = {
    "one": Subcommand("tests.recurrentgemma.test_subcommands:answer", "the first"),
    "another": Subcommand("nowhere:main", "the second"),
}


def answer(arguments: list[str]) -> int:
    return len(arguments)


def ran(*argv: str) -> int:
    return run(list(argv), TABLE, usage="usage\n", unknown="no number", expected="take one")


def test_it_runs_what_is_named(capsys):
    assert ran("one", "a", "b") == 2
    assert ran("one") == 0
    assert ran("--help") == 0
    assert ran() == 2
    assert capsys.readouterr() == ("usage\n", "usage\n")
    assert listed(TABLE) == "  one      the first\n  another  the second"


def test_what_is_not_there():
    with pytest.raises(UserError, match=r"'on' is no number \(did you mean 'one'\?\): take one"):
        ran("on")
