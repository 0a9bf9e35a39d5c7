# SPDX-License-Identifier: Apache-2.0
"""Templates and codes on disk: read back, merged into their base by name, and refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import hyper_adapters
from checkpoints.convert import convert
from checkpoints.hyper_adapters import CONFIG, WEIGHTS, HyperAdapters
from checkpoints.load import load_checkpoint, open_adapters
from checkpoints.merge_cli import main as merge
from checkpoints.open_checkpoint import Damaged
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_adapters import (
    GROUPS,
    HyperConfig,
    coded,
    fresh_codes,
    fresh_templates,
)
from recurrentgemma.params import flat_params
from tests.checkpoints.conftest import random_params, small_config

MODEL = small_config()
HYPER = HyperConfig(templates=3, rank=2, alpha=6.0, layers=".*/(ffw_up|linear_x)")


def small_hyper(base: Path | str, *names: str) -> HyperAdapters:
    """Templates whose B is not zero, and codes of these names."""
    rng = np.random.default_rng(4)
    templates = {
        name: rng.normal(size=x.shape).astype(np.float32)
        for name, x in fresh_templates(MODEL, HYPER, seed=0).items()
    }
    codes = np.asarray(fresh_codes(HYPER, len(names), seed=2))
    return HyperAdapters(
        Path("here"),
        HYPER,
        MODEL.num_layers,
        str(base),
        templates,
        dict(zip(names, codes, strict=True)),
    )


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    hyper_adapters.write(tmp_path / "hyper", small_hyper(base, "caps", "shift"))
    return tmp_path / "hyper"


def test_they_are_read_back(folder: Path, base: Path):
    again, wanted = hyper_adapters.read(folder), small_hyper(base, "caps", "shift")
    assert (again.hyper, again.base, again.num_layers) == (HYPER, str(base), MODEL.num_layers)
    assert hyper_adapters.read_config(folder) == HYPER
    assert again.codes.keys() == wanted.codes.keys()
    assert again.templates.keys() == wanted.templates.keys()
    for name, x in wanted.templates.items():
        np.testing.assert_array_equal(again.templates[name], x)
    np.testing.assert_array_equal(again.code("shift"), wanted.codes["shift"])
    again.check(MODEL)
    with pytest.raises(UserError, match="exists already"):
        hyper_adapters.write(folder, wanted)


def test_merged_with_the_code_that_is_named(folder: Path, base: Path, tmp_path: Path, capsys):
    assert merge([str(base), str(folder), str(tmp_path / "out"), "--code", "shift"]) == 0
    assert "taken on trust" not in capsys.readouterr().out
    got, kept = flat_params(load_checkpoint(tmp_path / "out")[0]), hyper_adapters.read(folder)
    flat = coded(MODEL, HYPER, kept.templates, kept.codes["shift"])
    changed = 0
    for name, weight in random_params(MODEL).items():
        layer, want = name.removesuffix("/weight"), weight
        if f"{layer}/weight_lora_a" in flat:
            a, b = (np.asarray(flat[f"{layer}/weight_lora_{which}"]) for which in "ab")
            want, changed = weight + HYPER.scale * (a @ b).T, changed + 1
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)
    assert changed == len(flat) // 2 > 0


def test_with_one_code_it_is_a_checkpoint(base: Path, tmp_path: Path):
    hyper_adapters.write(tmp_path / "one", small_hyper(base, "caps"))
    convert(tmp_path / "one", tmp_path / "plain", "griffin")
    opened, plain = (flat_params(load_checkpoint(tmp_path / name)[0]) for name in ("one", "plain"))
    for name, x in plain.items():
        np.testing.assert_array_equal(opened[name], x)
    lora, _ = open_adapters(tmp_path / "one")
    assert (lora.rank, lora.base) == (HYPER.width, str(base))
    assert lora.alpha / lora.rank == pytest.approx(HYPER.scale)


def test_codes_that_are_not_there(folder: Path, base: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"several tasks or of none \(caps, shift\): name one"):
        load_checkpoint(folder)
    with pytest.raises(UserError, match="no code of 'cap'"):
        open_adapters(folder, "cap")
    hyper_adapters.write(tmp_path / "none", small_hyper(base))
    with pytest.raises(UserError, match=r"or of none \(none\)"):
        open_adapters(tmp_path / "none")


def test_another_model_is_refused(folder: Path):
    kept = hyper_adapters.read(folder)
    with pytest.raises(UserError, match="its templates are not of this model"):
        kept.check(dataclasses.replace(MODEL, mlp_width=64))
    deeper = dataclasses.replace(MODEL, num_layers=MODEL.num_layers + 1)
    with pytest.raises(UserError, match="its templates are not of this model"):
        kept.check(deeper)


def test_damage_is_refused(folder: Path, base: Path, tmp_path: Path):
    content = json.loads((folder / CONFIG).read_text())
    tensors = load_file(folder / WEIGHTS)
    for change, error, message in (
        ({"version": 2}, UserError, "written by a newer one"),
        ({"hyper": {"templates": 0}}, Damaged, "expected at least 1"),
        ({"base": None, "num_layers": "x"}, Damaged, "copy it again"),
    ):
        (folder / CONFIG).write_text(json.dumps(content | change))
        with pytest.raises(error, match=message):
            hyper_adapters.read(folder)
    (folder / CONFIG).write_text(json.dumps(content))
    save_file(tensors | {"hyper_code/caps": np.ones((GROUPS, 2), np.float32)}, folder / WEIGHTS)
    with pytest.raises(UserError, match="expected a code of 3 x 3 finite numbers"):
        hyper_adapters.read(folder)
    (folder / WEIGHTS).write_bytes(b"short")
    with pytest.raises(Damaged, match="truncated"):
        hyper_adapters.read(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(Damaged, match="missing"):
        hyper_adapters.read(folder)
    with pytest.raises(UserError, match="holds no hypernetwork adapters"):
        hyper_adapters.read(base)
    with pytest.raises(UserError, match=r"a code \('caps'\) has no effect|holds no adapters"):
        open_adapters(base, "caps")
