# SPDX-License-Identifier: Apache-2.0
"""Runs that start from a model of a hub: config.json has its commit, and keeps it."""

import dataclasses
import json
from pathlib import Path

import pytest

from checkpoints import adapters, store
from checkpoints.load import load_checkpoint
from recurrentgemma.errors import UserError
from tests.checkpoints.fake_hub import cache, commit_of, files_in, use_cache
from tests.training.finetuning.capitals import arguments, run, write_base, write_data
from training import pins
from training.configs import TrainConfig
from training.finetuning.finetune_arguments import LoraArguments
from training.finetuning.prepare import prepare
from training.launch import Launch
from training.loop import train
from training.start import complete

NAME = "some/base"
OLD, NEW = commit_of("old"), commit_of("new")


@pytest.fixture
def hub(tmp_path: Path, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without a network, with two commits of a base; main is the older one."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "hub"
    use_cache(monkeypatch, home, offline=True)
    files = files_in(write_base(tmp_path, small))
    cache(home, NAME, files, commit=NEW, ref="next")
    cache(home, NAME, files, commit=OLD)
    return home


def test_a_run_keeps_its_commit(hub: Path, tmp_path: Path):
    """Fine-tuned by name, with adapters; the same command goes on when main has moved."""
    data = write_data(tmp_path / "tune.jsonl")
    given = arguments(NAME, data, tmp_path / "run", lora=LoraArguments(rank=2), epochs=4.0)
    prepared = prepare(given)
    assert prepared.config.init_from == prepared.config.tokenizer == f"{NAME}@{OLD}"
    run(prepared)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert saved["init_from"] == saved["tokenizer"] == f"{NAME}@{OLD}"
    written = json.loads((tmp_path / "run/adapter" / adapters.CONFIG).read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == (NAME, OLD)
    assert load_checkpoint(tmp_path / "run")[1].num_layers == 2  # with the base merged in

    (hub / "models--some--base" / "refs" / "main").write_text(NEW)
    assert prepare(given).config == prepared.config
    elsewhere = dataclasses.replace(given, run_dir=tmp_path / "other")
    assert prepare(elsewhere).config.init_from == f"{NAME}@{NEW}"
    with pytest.raises(ValueError, match=f"another config .*init_from: '{NAME}@{OLD}' -> "):
        run(prepare(dataclasses.replace(given, checkpoint=f"{NAME}@{NEW}")))


def test_another_revision_is_refused(hub: Path, tmp_path: Path):
    """But for one that is the same commit, and for the branch that the run was begun with, which
    may have moved."""
    data, moving = write_data(tmp_path / "tune.jsonl"), hub / "models--some--base" / "refs" / "main"
    given = arguments(f"{NAME}@main", data, tmp_path / "run", lora=LoraArguments(rank=2))
    prepared = prepare(given)
    assert prepared.config.branches == (f"{NAME}@main",)
    store.write_run_config(tmp_path / "run", prepared.config.model, prepared.config.to_json())
    other = dataclasses.replace(given, checkpoint=f"{NAME}@next")
    refused = f"init_from: .*run goes on from {NAME}@{OLD}, and {NAME}@next is {NAME}@{NEW}; leave"
    with pytest.raises(UserError, match=refused):
        prepare(other)
    moving.write_text(NEW)
    assert prepare(given).config == prepared.config
    assert prepare(dataclasses.replace(given, checkpoint=NAME)).config == prepared.config
    (moving.parent / "next").write_text(OLD)
    assert prepare(other).config == prepared.config


def test_pretraining_from_a_name(hub: Path, tmp_path: Path, small: TrainConfig):
    model = dataclasses.replace(small.model, logits_soft_cap=30.0, scale_embeddings=True)
    config = dataclasses.replace(small, model=model, init_from=NAME, tokenizer=NAME, steps=5)
    assert complete(dataclasses.replace(config, tokenizer="")).tokenizer == NAME
    assert train(config, tmp_path / "run", Launch(devices=1, tensorboard=False))
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert saved["init_from"] == saved["tokenizer"] == f"{NAME}@{OLD}"
    (hub / "models--some--base" / "refs" / "main").write_text(NEW)
    assert train(config, tmp_path / "run", Launch(devices=1, tensorboard=False))


def test_what_is_no_name_stays(tmp_path: Path, small: TrainConfig, hub: Path):
    assert pins.pin(small, tmp_path) == small
    for text in ("", "bytes", "sentencepiece", "tokens/a.model", f"{NAME}@{OLD}"):
        assert pins.pinned(text, tmp_path, "tokenizer") == text
    assert pins.pinned(f"{NAME}@next", tmp_path, "tokenizer") == f"{NAME}@{NEW}"
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        pins.pinned("some/other", tmp_path, "init_from")
