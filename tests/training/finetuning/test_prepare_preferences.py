# SPDX-License-Identifier: Apache-2.0
"""What `griffin finetune --method dpo` is refused for, before anything is written."""

from pathlib import Path

import pytest

from griffin_lm import main as griffin
from tests.training.finetuning.capitals import write_pairs
from tests.training.finetuning.test_preference_inputs import command


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "q"], "--prompt has no effect with --method dpo"),
        (["--clip", "0.1"], "--clip has no effect with --method dpo"),
        (["--desirable-weight", "2"], "--desirable-weight has no effect with --method dpo"),
        (["--method", "examples", "--beta", "1"], "--beta has no effect with --method examples"),
        (["--retain", "kl"], "whose beta holds the model to the checkpoint on the same rows"),
        (["--sequence-length", "16"], "tokens with its prompt, and a row 16: raise"),
    ],
)
def test_what_is_refused(options, message, base: Path, pairs: Path, tmp_path: Path, capsys):
    assert griffin(command(base, pairs, tmp_path / "run", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
