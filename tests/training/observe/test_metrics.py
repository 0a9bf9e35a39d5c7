# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl holds each step once and is always readable."""

import json

import pytest

from training.observe.metrics import MetricsLog, bits_per_byte, read_metrics


def test_a_resumed_log_drops_what_will_be_computed_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, step=0)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": step / 7})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # the machine was switched off here
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    log = MetricsLog(path, step=20)
    log.write({"step": 30, "loss": 1.0})
    log.close()
    assert read_metrics(path) == [
        {"step": 10, "loss": 10 / 7},
        {"step": 20, "loss": 20 / 7},
        {"step": 30, "loss": 1.0},
    ]


def test_a_new_run_starts_an_empty_log_and_numbers_stay_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    log = MetricsLog(path, step=0)
    log.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "tokens": 7})
    log.close()

    def refuse(constant: str):
        raise AssertionError(constant)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record == {"step": 1, "loss": None, "grad_norm": None, "tokens": 7}


def test_a_log_with_nothing_to_drop_is_not_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1.5}\n')
    before = path.stat()
    MetricsLog(path, step=2).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    MetricsLog(path, step=1).close()
    assert path.read_text() == ""
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_bits_per_byte():
    # A fair coin for every byte, two bytes a token: 2 ln 2 nats a token.
    assert bits_per_byte(1.3862943611, bytes_per_token=2.0) == pytest.approx(1.0)
