# SPDX-License-Identifier: Apache-2.0
"""Records in TensorBoard's files, and in a stand-in for Weights & Biases."""

import sys
from types import SimpleNamespace

import pytest

from training.trackers import TensorBoard, WeightsAndBiases

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
