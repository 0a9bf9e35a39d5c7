# SPDX-License-Identifier: Apache-2.0
"""DeepMind's two formats: what they do not say, the presets that say it, damage, and old files."""

import builtins
import dataclasses
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from checkpoints import deepmind_flax, orbax_tree
from checkpoints.load import load_checkpoint, open_source
from checkpoints.names import FORMATS, Format
from checkpoints.shapes import file_shapes, resolve_config
from checkpoints.source import Source, Spec, read_params, write_names
from recurrentgemma.presets import PRESETS, griffin_7b, recurrentgemma_2b, recurrentgemma_9b
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

CONFIG = small_config()


def shapes_only(config, fmt: Format = "deepmind-flax", dtype="bfloat16") -> Source:
    specs = {name: Spec(shape, dtype) for name, shape in file_shapes(config, fmt).items()}
    return Source(Path("there"), fmt, specs, lambda dtype: iter(()))


@pytest.fixture
def bare(tmp_path) -> Path:
    """A checkpoint as DeepMind's own code writes it: no config of ours inside."""
    deepmind_flax.write(tmp_path / "dm", random_params(CONFIG), CONFIG)
    (tmp_path / "dm" / "config.json").unlink()
    return tmp_path / "dm"


@pytest.mark.parametrize("fmt", ["deepmind-flax", "deepmind-torch", "huggingface"])
@pytest.mark.parametrize("name", [n for n in PRESETS if not n.startswith("mqa")])
def test_a_presets_shapes_give_the_preset(name, fmt):
    preset = PRESETS[name]()
    expected = dataclasses.replace(preset, dtype="bfloat16", param_dtype="bfloat16")
    assert resolve_config(shapes_only(preset, fmt), None, None) == expected
    assert resolve_config(shapes_only(preset, fmt), None, "float32") == preset


def test_deepminds_griffin_7b_has_32_gate_blocks_and_gets_the_papers_values():
    theirs = dataclasses.replace(griffin_7b(), num_gate_blocks=32)
    found = resolve_config(shapes_only(theirs, dtype="float32"), None, None)
    assert found == theirs
    assert (found.attention_window, found.logits_soft_cap, found.scale_embeddings) == (
        1024,
        None,
        False,
    )


def test_a_larger_vocabulary_is_still_the_preset():
    resized = dataclasses.replace(recurrentgemma_2b(), vocab_size=256_128)
    assert resolve_config(shapes_only(resized, dtype="float32"), None, None) == resized


def test_one_misshapen_tensor_does_not_hide_the_preset():
    source = shapes_only(recurrentgemma_9b())
    name = "blocks.7/recurrent_block/linear_out/kernel"
    specs = {**source.specs, name: Spec((4096, 4095), "bfloat16")}
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(4096, 4095\), .*width: 4096"):
        resolve_config(dataclasses.replace(source, specs=specs), None, None)
    specs.pop(name)
    with pytest.raises(ValueError, match=f"missing tensor '{name}'"):
        resolve_config(dataclasses.replace(source, specs=specs), None, None)


@pytest.mark.parametrize("wrapper", [True, False])
def test_with_and_without_the_params_level(tmp_path, wrapper):
    params = random_params(CONFIG)
    deepmind_flax.write(tmp_path / "dm", dict(params), CONFIG, wrapper=wrapper)
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "dm")
    assert ("params" in tree) == wrapper
    blocks = tree["params"] if wrapper else tree
    assert set(blocks) == {"embedder", "final_norm", *(f"blocks.{i}" for i in range(4))}
    assert blocks["blocks.0"]["mlp_block"]["ffw_up"]["b"].shape == (2, 1, 1, 40)
    source = open_source(tmp_path / "dm")
    assert source.config == CONFIG
    assert_same_bits(dict(read_params(source, "float32")), params)


def test_other_shapes_need_a_config(bare):
    with pytest.raises(
        ValueError,
        match=r"says nothing of attention_window, logits_soft_cap, scale_embeddings, and no preset "
        r"has these shapes \(vocab_size=50, width=24, .*num_heads=3, 4 layers\); pass config=",
    ):
        load_checkpoint(bare)
    _, config, _ = load_checkpoint(bare, CONFIG)
    assert config == CONFIG


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"width": 32},
            r"'embedder/input_embedding' has shape \(50, 24\), .*\(50, 32\): width: 32",
        ),
        ({"mlp_width": 44}, r"ffw_up/w' has shape \(2, 24, 40\), .*\(2, 24, 44\): mlp_width: 44"),
        ({"num_gate_blocks": 9}, r"gate/w' has shape \(3, 12, 12\), .*num_gate_blocks: 9 in the"),
        ({"num_heads": 6}, r"proj_q/kernel' .* num_heads \* head_dim: 48 in the config, 24 in"),
        ({"num_layers": 7}, "num_layers=7, the file holds 4 blocks"),
        ({"num_layers": 3}, "unexpected tensors 'blocks.3/.*num_layers=3, the file holds 4"),
        ({"pattern": ("recurrent",)}, "pattern makes block 2 recurrent"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_tensors(bare, changes, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(bare, dataclasses.replace(CONFIG, **changes))


def test_a_tensor_of_something_else(tmp_path):
    arrays = dict(write_names(random_params(CONFIG), "deepmind-flax"))
    orbax_tree.write_tree(tmp_path / "dm", {**arrays, "vision/kernel": np.zeros(3)})
    with pytest.raises(ValueError, match="unexpected tensor 'vision/kernel'"):
        load_checkpoint(tmp_path / "dm")
    arrays["final_norm/scale"] = arrays["final_norm/scale"].astype(np.float64)
    orbax_tree.write_tree(tmp_path / "wide", arrays)
    with pytest.raises(ValueError, match="'final_norm/scale' is stored as float64"):
        load_checkpoint(tmp_path / "wide", CONFIG)


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
    source = open_source(path)
    assert source.format == "deepmind-flax"
    assert_same_bits(dict(read_params(source, dtype)), params)


def test_kaggles_folder(tmp_path, bare):
    """The tree in a folder, the tokenizer beside it."""
    assert open_source(bare.parent).specs == open_source(bare).specs


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


def test_a_pt_file_without_torch(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    imports = builtins.__import__

    def without(name, *rest):
        if name == "torch":
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"need PyTorch.*pip install torch==2"):
        load_checkpoint(tmp_path / "x.pt")


def test_pt_files_that_are_wrong(tmp_path):
    torch = pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    from checkpoints import deepmind_torch

    file = tmp_path / "m.pt"
    deepmind_torch.write(file, random_params(CONFIG), CONFIG)
    whole = file.read_bytes()
    for keep in (0, 3, 1000, len(whole) - 10):
        file.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"m\.pt: truncated, or not a \.pt file"):
            load_checkpoint(file)
    file.write_bytes(whole)
    state = torch.load(file, weights_only=True)
    (tmp_path / "m.json").unlink()
    with pytest.raises(ValueError, match=r"m\.pt: this format says nothing of attention_window"):
        load_checkpoint(file)
    torch.save({"model": state}, file)
    with pytest.raises(ValueError, match="flat state dict of tensors; 'model' is dict"):
        load_checkpoint(file, CONFIG)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="expected a state dict, found list"):
        load_checkpoint(file, CONFIG)
    torch.save({"x": Path}, file)
    with pytest.raises(ValueError, match="not a readable state dict"):
        load_checkpoint(file, CONFIG)
    name = "blocks.0.recurrent_block.linear_x.weight"
    torch.save({**state, name: state[name].T.contiguous()}, file)
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(24, 36\), .* \(36, 24\)"):
        load_checkpoint(file, CONFIG)
    state["blocks.0.mlp_block.ffw_up.w"] = state["blocks.0.mlp_block.ffw_up.w"][:1]
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"ffw_up.w' has shape \(1, 24, 40\).*a fixed 2: 2 in the"):
        load_checkpoint(file, CONFIG)


def test_a_pt_file_with_transposed_strides(tmp_path):
    """DeepMind's converter saves views; a map must not lose their strides."""
    torch = pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    params = random_params(CONFIG)
    state = {
        name: torch.from_numpy(np.ascontiguousarray(array.T)).permute(*range(array.ndim)[::-1])
        for name, array in write_names(dict(params), "deepmind-torch")
    }
    torch.save(state, tmp_path / "m.pt")
    assert_same_bits(dict(read_params(open_source(tmp_path / "m.pt"), "float32")), params)


def test_two_pt_files_in_a_directory(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one \.pt file, found \['a\.pt', 'b\.pt'\]"):
        open_source(tmp_path)


def test_formats_are_these_four():
    assert FORMATS == ("griffin", "deepmind-flax", "deepmind-torch", "huggingface")
    assert jnp.dtype("bfloat16").itemsize == 2
