# SPDX-License-Identifier: Apache-2.0
"""`griffin bench kernels`, with cases that take no time."""

import pytest

from kernels.measure import bench

KEYS = {
    *("op", "implementation", "shape", "dtype", "pass", "seconds", "bytes_per_second"),
    *("fraction_of_limit", "speedup_over_reference"),
}


@pytest.fixture
def small(monkeypatch):
    def cases(full, platform):
        yield bench.linear_scan_case((2, 5, 3), "float32", platform)
        yield bench.rg_lru_case((2, 5, 3), "bfloat16", platform)
        yield bench.attention_case((1, 5, 2, 8), "float32", platform)
        yield bench.decode_case((2, 1, 2, 8), "float32")

    monkeypatch.setattr(bench, "cases", cases)
    monkeypatch.setattr(bench, "limits", lambda dtype, platform: (1e9, 1e9))
    monkeypatch.setattr(bench, "WINDOW", 4)


def test_the_rows(small):
    rows = bench.measure()
    assert all(set(row) == KEYS for row in rows)
    assert all(row["seconds"] > 0 and row["fraction_of_limit"] > 0 for row in rows)
    ran = {(row["op"], row["implementation"], row["pass"]) for row in rows}
    for op in ("linear_scan", "rg_lru", "local_attention"):
        for implementation in ("reference", "xla"):
            assert {(op, implementation, name) for name in bench.PASSES} <= ran
    assert ("linear_scan", "associative_scan", "forward") in ran
    assert ("decode_attention", "plain", "forward") in ran
    assert {
        row["speedup_over_reference"] for row in rows if row["implementation"] == "reference"
    } == {1}
    scan = next(row for row in rows if row["op"] == "linear_scan")
    assert scan["bytes_per_second"] == pytest.approx(3 * 4 * 30 / scan["seconds"])


def test_what_is_timed_by_default():
    quick, full = (list(bench.cases(full, "cpu")) for full in (False, True))
    assert {case.op for case in quick} == {
        *("linear_scan", "rg_lru", "local_attention", "decode_attention")
    }
    assert {case.shape for case in full if case.op == "linear_scan"} == {
        *((1, 2048, 1024), (8, 2048, 1024), (1, 8192, 2560))
    }
    on_gpu = list(bench.cases(True, "gpu"))
    assert {case.shape for case in on_gpu if case.op == "rg_lru"} == {
        *((8, 2048, 2560), (1, 131_072, 2560), (64, 1024, 4096))
    }
    assert all("gpu" in case.functions for case in on_gpu if case.op == "rg_lru")
    attention = [case for case in on_gpu if case.op == "local_attention"]
    assert all(("gpu" in case.functions) == (case.dtype == "bfloat16") for case in attention)


def test_one_that_does_not_compile_does_not_stop_the_others(monkeypatch):
    def case(full, platform):
        one = bench.linear_scan_case((2, 5, 3), "float32", platform)

        def broken(x, a):
            raise ValueError("no such kernel\nhere")  # as a compiler says of what it cannot do

        yield one._replace(functions={"broken": broken, **one.functions})

    monkeypatch.setattr(bench, "cases", case)
    monkeypatch.setattr(bench, "limits", lambda dtype, platform: (1e9, 1e9))
    with pytest.warns(UserWarning, match="linear_scan broken forward.*: not timed: no such"):
        rows = bench.measure()
    assert {row["implementation"] for row in rows} == {"reference", "xla", "associative_scan"}
