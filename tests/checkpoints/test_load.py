# SPDX-License-Identifier: Apache-2.0
"""From a path to a model: the config that a user names, the tokenizer of a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

import recurrentgemma as rg
from checkpoints import adapters, store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint, named_tokenizer_of, open_checkpoint, tokenizer_of
from checkpoints.open_checkpoint import OpenCheckpoint
from griffin_lm import main as griffin
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config(vocab_size=261)


@pytest.fixture(scope="module")
def deepminds(tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint of DeepMind's that says nothing of its config, and the config elsewhere."""
    folder = tmp_path_factory.mktemp("deepmind")
    store.write(folder / "ours", random_params(CONFIG), CONFIG)
    ByteTokenizer().save(folder / "ours")
    convert(folder / "ours", folder / "dm", "deepmind-flax")
    (folder / "dm" / "config.json").unlink()
    return folder / "dm", folder / "ours" / "config.json"


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "PATH", "a", "--max-tokens", "2"],
        ["serve", "PATH", "--port", "0"],
        ["info", "PATH"],
    ],
    ids=lambda command: command[0],
)
def test_a_verb_has_the_option_that_its_error_names(deepminds, capsys, monkeypatch, command):
    path, config = deepminds
    monkeypatch.setattr("serving.serve_cli.EngineThread", lambda build, **_: build())
    monkeypatch.setattr("serving.serve_engine.Engine", _refuse_loaded)
    command = [str(path) if word == "PATH" else word for word in command]
    assert griffin(command) == 2
    assert "on the command line --config, a preset or a config.json" in capsys.readouterr().err
    if command[0] == "serve":  # it would go on until Ctrl-C
        assert griffin([*command, "--config", str(config), "--dtype", "bfloat16"]) == 2
        assert "loaded with 4 layers in bfloat16" in capsys.readouterr().err
        return
    assert griffin([*command, "--config", str(config)]) == 0
    assert griffin([*command, "--config", "no-such"]) == 2
    assert "config 'no-such': neither a preset (griffin_100m, " in capsys.readouterr().err


def _refuse_loaded(lm, **_):
    raise UserError(f"loaded with {lm.config.num_layers} layers in {lm.config.dtype}")


def test_a_config_by_name(deepminds):
    path, config = deepminds
    assert rg.load(path, str(config)).config.num_layers == CONFIG.num_layers
    with pytest.raises(ValueError, match=r"missing tensors 'blocks\.4/"):
        rg.load(path, "tiny")


def test_the_tokenizer_of_another_pt_file_is_not_taken(tmp_path: Path):
    ByteTokenizer().save(tmp_path)
    checkpoint = OpenCheckpoint(
        tmp_path / "b.pt", "deepmind-torch", {}, lambda _: iter(()), folders=(tmp_path,)
    )
    (tmp_path / "b.pt").touch()
    assert isinstance(tokenizer_of(checkpoint, 300)[0], ByteTokenizer)  # an embedding may be padded
    (tmp_path / "a.pt").touch()
    assert isinstance(tokenizer_of(checkpoint, 261)[0], ByteTokenizer)
    with pytest.raises(ValueError, match=r"one tokenizer, of 261 ids, .* \(a\.pt, b\.pt\); this"):
        tokenizer_of(checkpoint, 300)


def test_where_a_base_ends_answers_counts_with_its_adapters(tmp_path: Path):
    base, folder = tmp_path / "base", tmp_path / "adapters"
    store.write(base, random_params(CONFIG), CONFIG)
    ByteTokenizer().save(base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 65]}))
    pair = np.zeros((24, 1), np.float32), np.zeros((1, 40), np.float32)
    pairs = {"blocks.0/mlp_block/ffw_up": pair}
    adapters.write(folder, adapters.Adapters(folder, pairs, 1, 1.0, str(base)))
    ByteTokenizer().save(folder)  # as PEFT's trainers leave it there, without generation_config
    _, _, tokenizer = load_checkpoint(folder)
    assert tokenizer is not None
    assert tokenizer.stop_ids == (257, 260, 65)


def test_what_a_tokenizer_is_called_that_came_with_a_checkpoint(deepminds, tmp_path: Path):
    ours = deepminds[1].parent
    checkpoint = open_checkpoint(ours)
    for named, called in ((str(ours), str(ours)), ("some/base", "some/base")):
        tokenizer, name = named_tokenizer_of(checkpoint, named, CONFIG.vocab_size)
        assert isinstance(tokenizer, ByteTokenizer)
        assert name == called
    store.write(tmp_path / "bare", random_params(CONFIG), CONFIG)
    bare = open_checkpoint(tmp_path / "bare")
    assert named_tokenizer_of(bare, "some/base", CONFIG.vocab_size) == (None, "")
