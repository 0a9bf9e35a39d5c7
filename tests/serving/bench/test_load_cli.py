"""`griffin bench serve`: its numbers, what it writes, and what it refuses."""

import json

import pytest

from eval.results import read_result
from recurrentgemma.errors import UserError
from serving.bench.load_cli import main


def test_a_server_that_runs(url, capsys, tmp_path):
    options = [url, "--clients", "1", "2", "--rate", "200", "--requests", "4", "--warmup", "2"]
    options += ["--prompt", "8-16", "--answer", "exp:5", "--json", "--out", str(tmp_path / "out")]
    assert main(options) == 0
    shown = capsys.readouterr()
    loads = json.loads(shown.out.splitlines()[-1])["loads"]
    assert [load["load"] for load in loads] == ["1 clients", "2 clients", "200/s"]
    assert all(load["errors"] == 0 and load["latencies"]["ttft"]["p99"] > 0 for load in loads)
    assert loads[0]["tokens"] == loads[1]["tokens"] > 4
    record = read_result(tmp_path / "out")
    assert (tmp_path / "out" / "throughput.svg").is_file()
    assert record["result"]["loads"] == loads
    assert "Latency (ms)" in shown.out
    assert main(options) == 0  # it is over: shown again, not measured again
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["loads"] == loads


def test_errors_are_counted_and_told(url, capsys, tmp_path):
    lines = tmp_path / "asked.jsonl"
    lines.write_text('{"prompt": "a"}\n{"prompt": "a", "top_p": 7}\n')
    assert main([url, "--lines", str(lines), "--requests", "4", "--warmup", "0", "--json"]) == 1
    shown = capsys.readouterr()
    (load,) = json.loads(shown.out.splitlines()[-1])["loads"]
    assert (load["requests"], load["errors"]) == (4, 2)
    assert "answered with an error: 400: 'top_p'" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clients", "0"], "--clients .*more than 0"),
        (["--rate", "nan"], "--rate .*more than 0"),
        (["--requests", "0"], "--requests 0: expected 1 or more"),
        (["--prompt", "x"], "--prompt 'x'"),
        (["--serve=--slots 3"], "--serve has options"),
        ([], "names no model"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        main(["http://127.0.0.1:9", *options])
