# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's format: shards, the copied head, and everything that can be wrong."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import huggingface
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint, open_checkpoint
from checkpoints.open_checkpoint import read_params
from tests.checkpoints.conftest import assert_same_bits, change_config, random_params, small_config

EMBEDDING = "model.embed_tokens.weight"


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_shards_and_their_index(tmp_path, stored):
    config = small_config()
    huggingface.write(tmp_path / "shards", random_params(config), config, shard_bytes=20_000)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    one, many = open_checkpoint(stored), open_checkpoint(tmp_path / "shards")
    assert index["metadata"]["total_size"] == sum(
        4 * int(np.prod(spec.shape)) for spec in one.tensors.values()
    )
    assert_same_bits(dict(read_params(many, "float32")), dict(read_params(one, "float32")))


def test_one_file_alone_needs_its_config(stored):
    file = stored / "model.safetensors"
    assert load_checkpoint(file)[1] == small_config()
    (stored / "config.json").unlink()
    with pytest.raises(ValueError, match=r"attention_window, logits_soft_cap.*pass config="):
        load_checkpoint(file)
    model, _, _ = load_checkpoint(file, small_config())
    assert model.config == small_config()


def test_a_config_that_contradicts_the_checkpoints_own(stored):
    config = small_config()
    wrong = dataclasses.replace(config, attention_window=config.attention_window + 1)
    with pytest.raises(ValueError, match=r"its own config says attention_window=.*, the config"):
        load_checkpoint(stored, wrong)
    with pytest.raises(ValueError, match="config is 'tiny': expected a GriffinConfig"):
        load_checkpoint(stored, "tiny")  # type: ignore[arg-type]
    free = dataclasses.replace(config, scan_layers=True, remat="block")
    assert load_checkpoint(stored, free)[1] == free


def test_others_may_read_what_is_written(stored):
    modes = {path.stat().st_mode & 0o777 for path in stored.iterdir() if path.is_file()}
    assert len(modes) == 1  # those of any file that this process makes


def test_an_equal_head_is_dropped_and_another_is_an_error(stored):
    change_tensors(stored, lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()}))
    expected = random_params(small_config())
    assert_same_bits(dict(read_params(open_checkpoint(stored), "float32")), expected)

    def untie(tensors):
        tensors["lm_head.weight"][-1, -1] += 1

    change_tensors(stored, untie)
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from 'model.embed_tokens.w"):
        load_checkpoint(stored)
    change_tensors(stored, lambda t: t.update({"lm_head.weight": t[EMBEDDING][:-1].copy()}))
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs .*\(49, 24\)"):
        open_checkpoint(stored)


def test_a_large_head_is_compared_to_the_end(stored, monkeypatch):
    monkeypatch.setattr(huggingface, "MAPPED_BYTES", 1000)
    test_an_equal_head_is_dropped_and_another_is_an_error(stored)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_truncated_file_is_named(stored, keep):
    file = stored / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    for path in (stored, file):
        with pytest.raises(ValueError, match=r"model\.safetensors: truncated"):
            load_checkpoint(path)


def test_shards_that_disagree_with_their_index(tmp_path):
    config = small_config()
    folder = tmp_path / "hf"
    huggingface.write(folder, random_params(config), config, shard_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    name, file = next(iter(good["weight_map"].items()))
    wrong = {**good["weight_map"], "model.layers.99.x": file}
    index.write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(ValueError, match=rf"'model.layers.99.x' is in {file}; it is not"):
        open_checkpoint(folder)
    index.write_text(json.dumps(good))
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: missing"):
        open_checkpoint(folder)
    index.write_text(index.read_text()[:50])
    with pytest.raises(ValueError, match=r"index\.json: not a JSON file"):
        open_checkpoint(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="weight_map"):
        open_checkpoint(folder)
    assert name == EMBEDDING


LAYER = "model.layers.1.temporal_block.linear_x.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LAYER), f"missing tensor '{LAYER}'"),
        (lambda t: t.update(more=t[LAYER]), "unexpected tensor 'more'"),
        (
            lambda t: t.update({LAYER: t[LAYER].T.copy()}),
            rf"'{LAYER}' has shape \(24, 36\), the config expects \(36, 24\): lru_width: 36 in the "
            "config, 24 in the file",
        ),
        (
            lambda t: t.update({LAYER: t[LAYER].reshape(-1)}),
            rf"'{LAYER}' has shape \(864,\), the config expects \(36, 24\), which is "
            r"\(lru_width, width\)",
        ),
        (
            lambda t: t.update({EMBEDDING: np.zeros((64, 24), np.float32)}),
            r"shape \(64, 24\), the config expects \(50, 24\): vocab_size: 50 in the config, 64 in "
            "the file; rows beyond the vocabulary are not cut off: set vocab_size",
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if ".layers.3." in n],
            "the config says num_layers=4, the file holds 3 blocks",
        ),
        (
            lambda t: t.update({LAYER: t[LAYER].astype(np.int32)}),
            f"tensor '{LAYER}' is stored as I32; expected one of float32, bfloat16",
        ),
    ],
    ids=["missing", "extra", "misshapen", "rank", "rows", "depth", "integers"],
)
def test_tensors_that_contradict_the_config(stored, change, message):
    change_tensors(stored, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(stored)


def test_float16_is_widened(stored):
    change_tensors(
        stored, lambda t: t.update({n: a.astype(np.float16) for n, a in list(t.items())})
    )
    model, config, _ = load_checkpoint(stored)
    assert (config.dtype, config.param_dtype) == ("float32", "float32")
    assert model.embedder.input_embedding[...].dtype == np.float32


def test_generation_config_and_token_ids_travel(tmp_path, stored):
    (stored / "generation_config.json").write_text('{"eos_token_id": [1, 7], "temperature": 0.5}')
    change_config(stored, bos_token_id=5)
    convert(stored, tmp_path / "copy", "huggingface")
    generation = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 7], "temperature": 0.5}
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["bos_token_id"] == 5
