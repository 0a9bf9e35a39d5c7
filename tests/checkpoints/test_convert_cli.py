# SPDX-License-Identifier: Apache-2.0
"""`griffin convert`: what it prints, and what it refuses in one line."""

import griffin_lm
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from tests.checkpoints.conftest import OURS, random_params


def error(capsys, *argv: str) -> str:
    assert griffin_lm.main(["convert", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_it_says_what_it_did(tmp_path, ours, capsys):
    there = tmp_path / "new" / "hf"
    assert griffin_lm.main(["convert", str(ours), str(there), "--to", "huggingface"]) == 0
    out = capsys.readouterr().out
    count = sum(array.size for array in random_params(OURS).values())
    size = sum(file.stat().st_size for file in there.iterdir())
    assert f"{ours} (griffin) -> {there} (huggingface): {count:,} parameters in float32, " in out
    assert f"{size:,} bytes" in out
    names = "byte_tokenizer.json, tokenizer.json, tokenizer_config.json"
    assert out.endswith(f" s; with {names}\n")
    assert [path.name for path in there.parent.iterdir()] == ["hf"], "nothing else is left"


def test_kaggles_layout(tmp_path, ours, capsys):
    import orbax.checkpoint as ocp

    command = ["convert", str(ours), str(tmp_path / "dm"), "--to", "deepmind-flax", "--kaggle"]
    assert griffin_lm.main(command) == 0
    assert "blocks.0" in ocp.PyTreeCheckpointer().restore(tmp_path / "dm")
    capsys.readouterr()
    message = error(capsys, str(ours), str(tmp_path / "x"), "--to", "griffin", "--kaggle")
    assert "--kaggle has no effect with --to griffin" in message


def test_a_source_that_needs_a_config(tmp_path, ours, capsys):
    convert(ours, tmp_path / "dm", "deepmind-flax")
    (tmp_path / "dm" / "config.json").unlink()
    there = str(tmp_path / "there")
    assert "pass config=" in error(capsys, str(tmp_path / "dm"), there, "--to", "griffin")
    command = [str(tmp_path / "dm"), there, "--to", "griffin", "--config"]
    assert "neither a preset (griffin_100m, " in error(capsys, *command, "none.json")
    assert "missing tensors 'blocks.4/" in error(capsys, *command, "tiny")
    assert griffin_lm.main(["convert", *command, str(ours / "config.json")]) == 0
    assert load_checkpoint(there)[1] == OURS


def test_what_exists_is_not_overwritten(tmp_path, ours, capsys):
    there = tmp_path / "there"
    there.mkdir()
    (there / "precious").write_text("x")
    message = error(capsys, str(ours), str(there), "--to", "griffin")
    assert f"{there}: exists already; remove it, or choose another destination" in message
    assert [path.name for path in there.iterdir()] == ["precious"]
