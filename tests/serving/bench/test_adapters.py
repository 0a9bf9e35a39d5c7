# SPDX-License-Identifier: Apache-2.0
"""The measurement runs, here with a model of no size."""

import pytest

from serving.bench.adapters import main


def test_the_three_cases(capsys):
    few = ["--slots", "3", "--adapters", "2", "--rank", "2", "--width", "40", "--calls", "1"]
    assert main([*few, "--vocab", "16", "--dtype", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:32].strip() for line in lines] == [
        "no bank",
        "a bank, and nobody asks",
        "2 adapters at once",
    ]
    assert all(float(line.split()[-1].removesuffix("x")) > 0 for line in lines)


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--adapters" in capsys.readouterr().out
