"""Files are told from others of their names, wherever they differ by more than a few bytes."""

import os

import pytest

from checkpoints import sampled_digest as module
from checkpoints.sampled_digest import sampled_digest
from checkpoints.store import STEPS


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "params").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "params/weights").write_bytes(os.urandom(3 << 20))
    return folder


def test_a_copy_is_equal_and_any_change_is_none(checkpoint, tmp_path):
    before = sampled_digest(checkpoint)
    checkpoint.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert sampled_digest(moved) == before
    (moved / ".cache").write_text("of a hub")
    assert sampled_digest(moved) == before
    weights = moved / "params/weights"
    content = weights.read_bytes()
    for change in (
        content + b"x",
        content[:-1] + bytes([content[-1] ^ 1]),
        content[: 1 << 20] + bytes(1 << 14) + content[(1 << 20) + (1 << 14) :],
    ):
        weights.write_bytes(change)
        assert sampled_digest(moved) != before
    weights.write_bytes(content)
    assert sampled_digest(moved) == before
    (moved / "config.json").write_text("[]")
    assert sampled_digest(moved) != before
    (moved / "config.json").rename(moved / "other.json")
    assert sampled_digest(moved) != sampled_digest(weights) is not None
    assert sampled_digest(tmp_path / "google/recurrentgemma-2b") is None


def test_of_a_run_its_last_step(checkpoint, monkeypatch):
    """Not its log, which a training that goes on writes."""
    (checkpoint / f"{STEPS}/3").mkdir(parents=True)
    (checkpoint / f"{STEPS}/3/params").write_bytes(b"3")
    monkeypatch.setattr(module, "latest_step", lambda run: 3)
    before = sampled_digest(checkpoint)
    (checkpoint / "metrics.jsonl").write_text("{}")
    (checkpoint / f"{STEPS}/2").mkdir()
    (checkpoint / f"{STEPS}/2/params").write_bytes(b"2")
    assert sampled_digest(checkpoint) == before
    (checkpoint / "tokenizer.model").write_bytes(b"t")
    assert sampled_digest(checkpoint) != before
    (checkpoint / "tokenizer.model").unlink()
    (checkpoint / f"{STEPS}/3/params").write_bytes(b"4")
    assert sampled_digest(checkpoint) != before
