# SPDX-License-Identifier: Apache-2.0
"""One format into another: what travels along, what is refused; nothing half-written."""

import json
import zipfile

import numpy as np
import pytest

from checkpoints import convert as convert_module
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.checkpoints.conftest import OURS


@pytest.mark.parametrize("to", ["griffin", "huggingface", "deepmind-flax"])
def test_the_tokenizer_travels_along(tmp_path, ours, to):
    convert(ours, tmp_path / "there", to, dtype="bfloat16")
    _, config, tokenizer = load_checkpoint(tmp_path / "there")
    assert isinstance(tokenizer, ByteTokenizer)
    assert config.param_dtype == "bfloat16"


def test_transformers_gets_the_tokenizers_ids(tmp_path, ours):
    convert(ours, tmp_path / "there", "huggingface")
    for file, stops in (("config.json", 257), ("generation_config.json", [257, 260])):
        content = json.loads((tmp_path / "there" / file).read_text())
        ids = [content[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
        assert ids == [258, stops, 256]


def test_a_pt_name_is_a_file_any_other_a_folder(tmp_path, ours):
    pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    convert(ours, tmp_path / "a" / "m.pt", "deepmind-torch")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["byte_tokenizer.json", "m.json", "m.pt"]
    convert(ours, tmp_path / "m", "deepmind-torch")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["byte_tokenizer.json", "m.json", "m.pt"]
    for path in (tmp_path / "a" / "m.pt", tmp_path / "m", tmp_path / "m" / "m.pt"):
        _, config, tokenizer = load_checkpoint(path)
        assert config == OURS
        assert isinstance(tokenizer, ByteTokenizer)
    with pytest.raises(ValueError, match=r"m\.pt: exists already"):
        convert(ours, tmp_path / "a" / "m.pt", "deepmind-torch")
    (tmp_path / "a" / "byte_tokenizer.json").write_text("another")
    with pytest.raises(ValueError, match=r"byte_tokenizer\.json would be overwritten"):
        convert(ours, tmp_path / "a" / "n.pt", "deepmind-torch")
    assert not (tmp_path / "a" / "n.pt").exists()
    assert (tmp_path / "a" / "byte_tokenizer.json").read_text() == "another"


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


def test_a_failure_leaves_nothing(tmp_path, ours, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(convert_module.huggingface, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(ours, tmp_path / "there", "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_bad_arguments(tmp_path, ours):
    with pytest.raises(ValueError, match="to='onnx': expected one of griffin, deepmind-flax"):
        convert(ours, tmp_path / "there", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype='float8': expected one of 'float32', 'bfloat16'"):
        convert(ours, tmp_path / "there", "griffin", dtype="float8")
    assert np.dtype("float32").itemsize == 4
