# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's shapes: what they do not say, the presets that say it, and contradictions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from checkpoints import orbax_tree
from checkpoints.load import load_checkpoint
from checkpoints.names import Format
from checkpoints.open_checkpoint import OpenCheckpoint, StoredTensor, write_names
from checkpoints.shapes import file_shapes, resolve_config
from recurrentgemma.presets import PRESETS, griffin_7b, recurrentgemma_2b, recurrentgemma_9b
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config()


def shapes_only(config, fmt: Format = "deepmind-flax", dtype="bfloat16") -> OpenCheckpoint:
    tensors = {name: StoredTensor(shape, dtype) for name, shape in file_shapes(config, fmt).items()}
    return OpenCheckpoint(Path("there"), fmt, tensors, lambda dtype: iter(()))


@pytest.mark.parametrize("fmt", ["deepmind-flax", "deepmind-torch", "huggingface"])
@pytest.mark.parametrize("name", [n for n in PRESETS if not n.startswith("mqa")])
def test_a_presets_shapes_give_the_preset(name, fmt):
    preset = PRESETS[name]()
    expected = dataclasses.replace(preset, dtype="bfloat16", param_dtype="bfloat16")
    assert resolve_config(shapes_only(preset, fmt), None, None) == expected
    assert resolve_config(shapes_only(preset, fmt), None, "float32") == preset


def test_deepminds_griffin_7b_has_32_gate_blocks_and_gets_the_papers_values():
    theirs = dataclasses.replace(griffin_7b(), num_gate_blocks=32)
    config = resolve_config(shapes_only(theirs, dtype="float32"), None, None)
    assert config == theirs
    assert (config.attention_window, config.logits_soft_cap, config.scale_embeddings) == (
        1024,
        None,
        False,
    )


def test_a_larger_vocabulary_is_still_the_preset():
    resized = dataclasses.replace(recurrentgemma_2b(), vocab_size=256_128)
    assert resolve_config(shapes_only(resized, dtype="float32"), None, None) == resized


def test_one_misshapen_tensor_does_not_hide_the_preset():
    checkpoint = shapes_only(recurrentgemma_9b())
    name = "blocks.7/recurrent_block/linear_out/kernel"
    tensors = {**checkpoint.tensors, name: StoredTensor((4096, 4095), "bfloat16")}
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(4096, 4095\), .*width: 4096"):
        resolve_config(dataclasses.replace(checkpoint, tensors=tensors), None, None)
    tensors.pop(name)
    with pytest.raises(ValueError, match=f"missing tensor '{name}'"):
        resolve_config(dataclasses.replace(checkpoint, tensors=tensors), None, None)


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
