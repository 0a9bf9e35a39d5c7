# SPDX-License-Identifier: Apache-2.0
"""A small model that reads and writes bytes, a run that holds it, and chunks that it fills."""

import dataclasses
from pathlib import Path

import pytest

from checkpoints import store
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.params import flat_params
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.checkpoints import run_steps
from tests.recurrentgemma.generation.small_models import CONFIG, lm_of


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return lm_of("griffin", ByteTokenizer(), vocab_size=CONFIG.vocab_size)


@pytest.fixture(scope="session")
def run_dir(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `lm`, whose layers were scanned in training."""
    assert lm.tokenizer is not None
    path = tmp_path_factory.mktemp("run")
    store.write_run_config(path, dataclasses.replace(CONFIG, scan_layers=True), {})
    run_steps.save(path, 5, flat_params(lm.model))
    lm.tokenizer.save(path)
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a prompt of a few dozen tokens has several chunks."""
    for module in ("lm", "walk"):
        monkeypatch.setattr(f"recurrentgemma.generation.{module}.CHUNKS", (4, 16))
