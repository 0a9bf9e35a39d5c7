# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune` over a mesh: what it prints and leaves."""

from pathlib import Path

from checkpoints.load import load_checkpoint
from griffin_lm import main as griffin


def test_the_command(base: Path, data: Path, tmp_path: Path, capsys):
    """Over eight devices, in bfloat16, with scanned layers that are recomputed."""
    command = ["finetune", str(base), str(data), "--run-dir", str(tmp_path / "run")]
    command += ["--lora.rank", "4", "--epochs", "4", "--sequence-length", "32", "--scan-layers"]
    command += ["--mesh.fsdp", "4", "--mesh.data", "2", "--log-every", "1"]
    assert griffin(command) == 0, capsys.readouterr().err
    output = capsys.readouterr().out
    assert "2 examples, 76 tokens, of which 11 (14%) are answers" in output
    assert "2 are longer than a row of 32 tokens, 2 of them before their first answer" in output
    assert "2 steps of 8 x 32 tokens" in output
    assert "so few steps change little: a lower --sequence-length (now 32) or" in output
    assert "8 devices, data=2 x fsdp=4, in 1 processes" in output
    assert load_checkpoint(tmp_path / "run")[1].num_layers == 2
