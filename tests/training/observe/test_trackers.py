# SPDX-License-Identifier: Apache-2.0
"""Records in TensorBoard's files, and in a stand-in for Weights & Biases."""

import importlib
import resource
import struct
import sys
from types import SimpleNamespace

import pytest

from training.observe.metrics import MetricsLog, read_metrics
from training.observe.trackers import TensorBoard, WeightsAndBiases

event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
RECORD = {"step": 3, "loss": 1.5, "bits_per_byte": None, "mfu": 0.5, "held_out": float("nan")}


def test_tensorboard(tmp_path):
    board = TensorBoard(tmp_path, step=0)
    board.write(RECORD)
    board.close()
    [file] = (tmp_path / "tensorboard").iterdir()
    raw = file.read_bytes()
    assert b"loss" in raw
    assert b"speed/mfu" in raw
    for absent in (b"bits_per_byte", b"held_out", b"step"):
        assert absent not in raw


def test_tensorboard_reads_what_was_written(tmp_path):
    for step in (0, 3):  # the second run goes on after step 3
        board = TensorBoard(tmp_path, step=step)
        board.write({**RECORD, "step": step + 1})
        board.close()
    first, second = (
        [event_pb2.Event.FromString(raw) for raw in records(file)]
        for file in sorted((tmp_path / "tensorboard").iterdir())
    )
    assert [event.file_version for event in first] == ["brain.Event:2", "", ""]
    for events, step in ((first, 1), (second, 4)):
        assert events[1].step == step
        assert events[1].session_log.status == event_pb2.SessionLog.START
        assert events[2].step == step
        values = {value.tag: value.simple_value for value in events[2].summary.value}
        assert values == {"loss": 1.5, "speed/mfu": 0.5}


def records(file):
    """The records of a TFRecord file, their checksums not looked at."""
    raw, at = file.read_bytes(), 0
    while at < len(raw):
        (size,) = struct.unpack_from("Q", raw, at)
        yield raw[at + 12 : at + 12 + size]
        at += 12 + size + 4


def test_a_full_disk_names_the_file(tmp_path):
    board = TensorBoard(tmp_path, step=0)
    log = MetricsLog(tmp_path / "metrics.jsonl", step=0)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
    try:
        log.write({"step": 1, "loss": 1.5})
        with pytest.raises(OSError, match=r"File too large: '.*metrics\.jsonl'"):
            log.write({"step": 2, "loss": "x" * 100})
        log.close()
        board.write(RECORD)
        with pytest.raises(OSError, match=r"File too large: '.*tfevents.*'"):
            board.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.5}]
    log = MetricsLog(tmp_path / "metrics.jsonl", step=1)
    log.write({"step": 2, "loss": 1.25})
    log.close()
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_weights_and_biases(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda numbers, step: calls.append((numbers, step)), finish=lambda: calls.append("end")
    )

    def init(**options):
        calls.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tracker = WeightsAndBiases("griffins", tmp_path / "mine", {"seed": 0})
    tracker.write(RECORD)
    tracker.close()
    options, logged, ended = calls
    assert (options["project"], options["id"], options["resume"]) == ("griffins", "mine", "allow")
    assert logged == ({"loss": 1.5, "speed/mfu": 0.5}, 3)
    assert ended == "end"


def test_weights_and_biases_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb='griffins': .* is not installed; `pip install wa"):
        WeightsAndBiases("griffins", tmp_path, {})
