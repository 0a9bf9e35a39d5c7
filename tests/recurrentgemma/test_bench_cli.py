# SPDX-License-Identifier: Apache-2.0
"""`griffin bench kernels`: its table, its JSON, and what it asks for."""

import json

import pytest

from kernels.measure import bench
from recurrentgemma import bench_cli

ROW = {
    "op": "linear_scan",
    "implementation": "xla",
    "shape": [2, 5, 3],
    "dtype": "float32",
    "pass": "forward+backward",
    "seconds": 0.0123,
    "bytes_per_second": 4.56e9,
    "fraction_of_limit": 0.78,
    "speedup_over_reference": 9.1,
}


@pytest.fixture
def asked(monkeypatch) -> list[bool]:
    calls = []

    def measure(full, report):
        report("compiling")
        calls.append(full)
        return [ROW]

    monkeypatch.setattr(bench, "measure", measure)
    return calls


def test_the_command(asked, capsys):
    assert bench_cli.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]
    assert bench_cli.main(["--full"]) == 0
    shown = capsys.readouterr().out
    for word in ("linear_scan", "2x5x3", "forward+backward", "xla", "12.30", "4.6", "78%", "9.10"):
        assert word in shown
    assert all(name in shown for name in bench_cli.HEADER)
    assert asked == [False, True]
