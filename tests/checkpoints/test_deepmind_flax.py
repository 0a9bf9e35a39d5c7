# SPDX-License-Identifier: Apache-2.0
"""DeepMind's Orbax directories: with and without their outer level, old ones, and damage."""

import shutil

import orbax.checkpoint as ocp
import pytest
from flax import serialization

from checkpoints import deepmind_flax, orbax_tree
from checkpoints.load import load_checkpoint, open_checkpoint
from checkpoints.open_checkpoint import read_params, write_names
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

CONFIG = small_config()


@pytest.mark.parametrize("wrapper", [True, False])
def test_with_and_without_the_params_level(tmp_path, wrapper):
    params = random_params(CONFIG)
    deepmind_flax.write(tmp_path / "dm", dict(params), CONFIG, wrapper=wrapper)
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "dm")
    assert ("params" in tree) == wrapper
    blocks = tree["params"] if wrapper else tree
    assert set(blocks) == {"embedder", "final_norm", *(f"blocks.{i}" for i in range(4))}
    assert blocks["blocks.0"]["mlp_block"]["ffw_up"]["b"].shape == (2, 1, 1, 40)
    checkpoint = open_checkpoint(tmp_path / "dm")
    assert checkpoint.config == CONFIG
    assert_same_bits(dict(read_params(checkpoint, "float32")), params)


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orbax_before_its_metadata_file(tmp_path, ocdbt, dtype):
    """Early 2024: the structure in msgpack, no _METADATA, arrays in OCDBT or in a folder each."""
    config = small_config(param_dtype=dtype)
    params = random_params(config)
    arrays = dict(write_names(dict(params), "deepmind-flax"))
    path = tmp_path / "old"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as checkpointer:
        checkpointer.save(path, orbax_tree.nested(arrays))
    for new in ("_METADATA", "_CHECKPOINT_METADATA", "_sharding", "commit_success.txt"):
        (path / new).unlink(missing_ok=True)
    shutil.rmtree(path / "array_metadatas", ignore_errors=True)
    leaves = {name: "PLACEHOLDER://" + name.replace("/", ".") for name in arrays}
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(orbax_tree.nested(leaves)))
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "deepmind-flax"
    assert_same_bits(dict(read_params(checkpoint, dtype)), params)


def test_kaggles_folder(tmp_path, bare):
    """The tree in a folder, the tokenizer beside it."""
    assert open_checkpoint(bare.parent).tensors == open_checkpoint(bare).tensors


def test_a_damaged_orbax_directory_is_named(bare):
    data = max(bare.rglob("d/*"), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"dm: this Orbax checkpoint is incomplete or damaged"):
        load_checkpoint(bare, CONFIG)
    data.unlink()
    with pytest.raises(ValueError, match=r"dm: this Orbax checkpoint is incomplete or damaged"):
        load_checkpoint(bare, CONFIG)
    data.write_bytes(whole)
    load_checkpoint(bare, CONFIG)
    metadata = bare / "_METADATA"
    content = metadata.read_text()
    metadata.write_text(content[:100])
    with pytest.raises(ValueError, match=r"dm: this Orbax checkpoint is incomplete or damaged"):
        load_checkpoint(bare, CONFIG)
    metadata.unlink()
    with pytest.raises(ValueError, match=r"dm: this Orbax checkpoint is incomplete or damaged"):
        load_checkpoint(bare, CONFIG)
