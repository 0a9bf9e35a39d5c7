# SPDX-License-Identifier: Apache-2.0
"""A config beside the tensors: read, named by a user, written, and refused by other programs."""

import dataclasses
import json
from pathlib import Path

import pytest

from checkpoints.model_json import (
    config_named,
    read_model_json,
    require_deepmind,
    write_model_json,
)
from recurrentgemma.presets import preset
from tests.checkpoints.conftest import small_config

CONFIG = small_config()


def test_written_and_read(tmp_path: Path):
    file = tmp_path / "config.json"
    assert read_model_json(file) is None
    write_model_json(file, CONFIG, {"steps": 3})
    assert read_model_json(file) == CONFIG
    assert json.loads(file.read_text())["train"] == {"steps": 3}
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as some editors save it
    assert read_model_json(file) == CONFIG


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "expected a JSON object, found list"),
        ('{"width": 3}', 'expected an object with "model"'),
        ('{"model": {"width": "wide"}}', "width"),
    ],
)
def test_a_file_that_is_not_ours_is_named(tmp_path: Path, content, message):
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        read_model_json(file)


def test_a_config_by_name(tmp_path: Path):
    write_model_json(tmp_path / "mine.json", CONFIG)
    assert config_named(str(tmp_path / "mine.json")) == CONFIG
    assert config_named("tiny") == preset("tiny")
    with pytest.raises(ValueError, match=r"config 'tinny': neither a preset \(griffin_100m, "):
        config_named("tinny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": ("global_attention",)}, "no global attention"),
        ({"head_dim": 4}, "num_heads=3 times head_dim=4 must be width=24"),
        ({"num_gate_blocks": 9}, "num_gate_blocks=9 must be num_heads=3"),
    ],
    ids=str,
)
def test_what_deepminds_code_cannot_run(changes, message):
    require_deepmind(CONFIG)
    with pytest.raises(ValueError, match=f"DeepMind's code cannot run this model: .*{message}"):
        require_deepmind(dataclasses.replace(CONFIG, **changes))
