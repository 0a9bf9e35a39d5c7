# SPDX-License-Identifier: Apache-2.0
"""DeepMind's `.pt` files: without torch, broken, transposed, two in a folder."""

import builtins
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints.load import load_checkpoint, open_checkpoint
from checkpoints.open_checkpoint import read_params, write_names
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

CONFIG = small_config()


def test_a_pt_file_without_torch(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    imports = builtins.__import__

    def without(name, *others):
        if name == "torch":
            raise ImportError(name)
        return imports(name, *others)

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
    assert_same_bits(dict(read_params(open_checkpoint(tmp_path / "m.pt"), "float32")), params)


def test_two_pt_files_in_a_directory(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one \.pt file, found \['a\.pt', 'b\.pt'\]"):
        open_checkpoint(tmp_path)
