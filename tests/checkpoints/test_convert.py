# SPDX-License-Identifier: Apache-2.0
"""`griffin convert`: what it prints, what travels along, what it refuses; nothing half-written."""

import json
import zipfile

import numpy as np
import pytest

import griffin_lm
from checkpoints import convert as convert_module
from checkpoints import store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config(vocab_size=261)


@pytest.fixture
def stored(tmp_path):
    store.write(tmp_path / "ours", random_params(CONFIG), CONFIG)
    ByteTokenizer().save(tmp_path / "ours")
    return tmp_path / "ours"


def error(capsys, *argv: str) -> str:
    assert griffin_lm.main(["convert", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_it_says_what_it_did(tmp_path, stored, capsys):
    there = tmp_path / "new" / "hf"
    assert griffin_lm.main(["convert", str(stored), str(there), "--to", "huggingface"]) == 0
    out = capsys.readouterr().out
    count = sum(array.size for array in random_params(CONFIG).values())
    size = sum(file.stat().st_size for file in there.iterdir())
    assert f"{stored} (griffin) -> {there} (huggingface): {count:,} parameters in float32, " in out
    assert f"{size:,} bytes" in out
    names = "byte_tokenizer.json, tokenizer.json, tokenizer_config.json"
    assert out.endswith(f" s; with {names}\n")
    assert [path.name for path in there.parent.iterdir()] == ["hf"], "nothing else is left"


@pytest.mark.parametrize("to", ["griffin", "huggingface", "deepmind-flax"])
def test_the_tokenizer_travels_along(tmp_path, stored, to):
    convert(stored, tmp_path / "there", to, dtype="bfloat16")
    _, config, tokenizer = load_checkpoint(tmp_path / "there")
    assert isinstance(tokenizer, ByteTokenizer)
    assert config.param_dtype == "bfloat16"


def test_transformers_gets_the_tokenizers_ids(tmp_path, stored):
    convert(stored, tmp_path / "there", "huggingface")
    for file, stops in (("config.json", 257), ("generation_config.json", [257, 260])):
        content = json.loads((tmp_path / "there" / file).read_text())
        ids = [content[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
        assert ids == [258, stops, 256]


def test_a_pt_name_is_a_file_any_other_a_folder(tmp_path, stored):
    pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    convert(stored, tmp_path / "a" / "m.pt", "deepmind-torch")
    found = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert found == ["byte_tokenizer.json", "m.json", "m.pt"]
    convert(stored, tmp_path / "m", "deepmind-torch")
    found = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert found == ["byte_tokenizer.json", "m.json", "m.pt"]
    for path in (tmp_path / "a" / "m.pt", tmp_path / "m", tmp_path / "m" / "m.pt"):
        _, config, tokenizer = load_checkpoint(path)
        assert config == CONFIG
        assert isinstance(tokenizer, ByteTokenizer)
    with pytest.raises(ValueError, match=r"m\.pt: exists already"):
        convert(stored, tmp_path / "a" / "m.pt", "deepmind-torch")
    (tmp_path / "a" / "byte_tokenizer.json").write_text("another")
    with pytest.raises(ValueError, match=r"byte_tokenizer\.json would be overwritten"):
        convert(stored, tmp_path / "a" / "n.pt", "deepmind-torch")
    assert not (tmp_path / "a" / "n.pt").exists()
    assert (tmp_path / "a" / "byte_tokenizer.json").read_text() == "another"


def test_kaggles_layout(tmp_path, stored, capsys):
    import orbax.checkpoint as ocp

    command = ["convert", str(stored), str(tmp_path / "dm"), "--to", "deepmind-flax", "--kaggle"]
    assert griffin_lm.main(command) == 0
    assert "blocks.0" in ocp.PyTreeCheckpointer().restore(tmp_path / "dm")
    capsys.readouterr()
    message = error(capsys, str(stored), str(tmp_path / "x"), "--to", "griffin", "--kaggle")
    assert "--kaggle has no effect with --to griffin" in message


def test_a_source_that_needs_a_config(tmp_path, stored, capsys):
    convert(stored, tmp_path / "dm", "deepmind-flax")
    (tmp_path / "dm" / "config.json").unlink()
    there = str(tmp_path / "there")
    assert "pass config=" in error(capsys, str(tmp_path / "dm"), there, "--to", "griffin")
    command = [str(tmp_path / "dm"), there, "--to", "griffin", "--config"]
    assert "neither a preset (griffin_100m, " in error(capsys, *command, "none.json")
    assert "missing tensors 'blocks.4/" in error(capsys, *command, "tiny")
    assert griffin_lm.main(["convert", *command, str(stored / "config.json")]) == 0
    assert load_checkpoint(there)[1] == CONFIG


def test_what_exists_is_not_overwritten(tmp_path, stored, capsys):
    there = tmp_path / "there"
    there.mkdir()
    (there / "precious").write_text("x")
    message = error(capsys, str(stored), str(there), "--to", "griffin")
    assert f"{there}: exists already; remove it, or choose another destination" in message
    assert [path.name for path in there.iterdir()] == ["precious"]


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or directory; expected a run or checkpoint"),
        (lambda path: path.mkdir(), r"holds no checkpoint \(empty\)"),
        (lambda path: path.write_text("hello"), "not a checkpoint; expected a run"),
        (lambda path: path.write_bytes(b""), "not a checkpoint"),
        (write_zip, "not a checkpoint"),  # as a .pt file is one
        (
            lambda path: (path.mkdir(), (path / "pytorch_model.bin").write_bytes(b"x")),
            r"holds no checkpoint \(pytorch_model\.bin\)",
        ),
    ],
    ids=["nothing", "empty", "text", "no bytes", "zip", "bin"],
)
def test_what_is_no_checkpoint(tmp_path, make, message):
    make(tmp_path / "src")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "src", tmp_path / "dst", "griffin")
    assert not (tmp_path / "dst").exists()


def test_a_failure_leaves_nothing(tmp_path, stored, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(convert_module.huggingface, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(stored, tmp_path / "there", "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_bad_arguments(tmp_path, stored):
    with pytest.raises(ValueError, match="to='onnx': expected one of griffin, deepmind-flax"):
        convert(stored, tmp_path / "there", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype='float8': expected one of 'float32', 'bfloat16'"):
        convert(stored, tmp_path / "there", "griffin", dtype="float8")
    assert np.dtype("float32").itemsize == 4
