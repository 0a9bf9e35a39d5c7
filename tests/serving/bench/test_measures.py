"""The numbers of a load, by hand, and their plots."""

import pytest

from serving.bench.client import Answer
from serving.bench.load import Load, Measured
from serving.bench.measures import numbers, plots, tables


def answer(took: float) -> Answer:
    """Of ten tokens in ten pieces, the first at half of its time."""
    gaps = (took / 18,) * 9
    return Answer(began=0.0, took=took, ttft=took / 2, gaps=gaps, prompt_tokens=4, tokens=10)


FAILED = Answer(began=0.0, took=9.0, error="429: full")
MEASURED = Measured(answers=(*(answer(took) for took in (1, 2, 3)), FAILED, FAILED), seconds=10.0)


def test_numbers():
    row = numbers(Load(clients=2), MEASURED)
    assert (row["requests"], row["errors"], row["tokens"], row["prompt_tokens"]) == (5, 2, 30, 12)
    assert row["errors_by_message"] == {"429: full": 2}
    assert (row["tokens_per_second"], row["requests_per_second"]) == (3.0, 0.3)
    request, ttft = row["latencies"]["request"], row["latencies"]["ttft"]
    assert (request["mean"], request["p50"], request["most"]) == (2.0, 2.0, 3)
    assert request["p90"] == pytest.approx(2.8)
    assert (ttft["p50"], ttft["most"]) == (1.0, 1.5)
    assert row["latencies"]["time_per_token"]["p50"] == pytest.approx(2 / 18)
    assert len(row["curves"]["gap"]) == 103


def test_tables_and_plots(tmp_path):
    rows = [numbers(Load(clients=2), MEASURED), numbers(Load(clients=4), MEASURED)]
    throughput, latency = tables(rows)
    assert throughput.rows[0][:3] == ["2 clients", 5, 2]
    assert latency.rows[0][:4] == ["2 clients", "ttft", 1000.0, 1000.0]
    drawn = plots(rows)
    assert list(drawn) == ["ttft", "gap", "time_per_token", "request", "throughput"]
    for name, draw in drawn.items():
        draw(tmp_path / name)
        assert "</svg>" in (tmp_path / name).read_text()


def test_a_load_of_errors_has_numbers(tmp_path):
    row = numbers(Load(rate=2.0), Measured(answers=(FAILED,), seconds=1.0))
    assert row["latencies"]["ttft"]["p99"] is None
    assert plots([row]) == {}
    assert tables([row])[1].rows[0][2:] == [None] * 5
