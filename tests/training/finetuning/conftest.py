# SPDX-License-Identifier: Apache-2.0
"""A small base to fine-tune, and what it is to learn."""

from pathlib import Path

import pytest

from tests.training.finetuning.capitals import write_base, write_data
from training.configs import TrainConfig


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, small: TrainConfig) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tune.jsonl")
