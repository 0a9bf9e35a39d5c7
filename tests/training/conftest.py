# SPDX-License-Identifier: Apache-2.0
"""A run small enough to train in a second, on text that is quickly learned."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from recurrentgemma.presets import tiny
from training import build
from training.configs import TrainConfig
from training.optim import OptimConfig

SONG = "".join(
    f"{n} green bottles hanging on the wall,\nand if one green bottle should accidentally fall,\n"
    for n in ("ten", "nine", "eight", "seven", "six", "five", "four", "three", "two", "one") * 4
)


@pytest.fixture(scope="session", autouse=True)
def shared_steps() -> Iterator[None]:
    """Runs of one config share their step: it is a function of its arguments, and traced once."""
    with pytest.MonkeyPatch.context() as patch:
        for function in ("make_optimizer", "learning_rate_schedule", "make_train_step"):
            patch.setattr(build, function, functools.cache(getattr(build, function)))
        yield


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "song.txt"
    path.write_text(SONG)
    return path


@pytest.fixture(scope="session")
def small(song: Path) -> TrainConfig:
    """Griffin of two layers over bytes; 12 steps of 4 rows of 32 tokens."""
    model = dataclasses.replace(
        tiny(),
        vocab_size=261,
        width=32,
        mlp_width=64,
        num_layers=2,
        pattern=("recurrent", "local_attention"),
        lru_width=32,
        num_gate_blocks=2,
        num_heads=2,
        head_dim=16,
        attention_window=16,
    )
    return TrainConfig(
        model=model,
        optimizer=OptimConfig(learning_rate=1e-2, warmup_steps=4),
        text=(str(song),),
        steps=12,
        batch_size=4,
        sequence_length=32,
        log_every=2,
        eval_every=5,
        eval_tokens=100,
        save_every=4,
    )
