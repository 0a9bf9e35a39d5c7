# SPDX-License-Identifier: Apache-2.0
"""Templates and codes learned over tasks, then a code alone; a run that was stopped goes on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import hyper_adapters
from checkpoints.load import load_checkpoint
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_adapters import HyperConfig
from recurrentgemma.params import flat_params
from training.finetuning import hyper_run
from training.finetuning.finetune import read_base
from training.finetuning.hyper_run import HyperRun, train_hyper
from training.observe.metrics import read_metrics
from training.run_folder import METRICS

ANSWERS = {"upper": "AB", "lower": "ab"}


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory) -> tuple[HyperRun, Path]:
    """Two tasks that answer the same question otherwise."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, answer in ANSWERS.items():
        line = json.dumps({"prompt": "q", "response": answer})
        (folder / f"{name}.jsonl").write_text(f"{line}\n" * 2)
    opened = read_base(str(base), full=False, dtype="float32", remat="none")
    config = HyperRun(
        model=opened.config,
        init_from=opened.init_from,
        tasks={name: f"chat:{folder / name}.jsonl?template=none" for name in ANSWERS},
        hyper=HyperConfig(templates=2, rank=2, alpha=4.0),
        steps=60,
        rows=1,
        sequence_length=8,
        learning_rate=1e-2,
        code_rate=0.1,
        warmup_steps=3,
        save_every=30,
        log_every=30,
    )
    return config, folder


def tokenizer_of(config: HyperRun):
    return read_base(config.init_from, full=False).tokenizer


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(folder / METRICS)]


def test_templates_then_a_code_alone(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, _ = run
    tokenizer = tokenizer_of(config)
    assert train_hyper(config, tmp_path / "whole", tokenizer)
    shared = hyper_adapters.read(tmp_path / "whole")
    assert set(shared.codes) == {"upper", "lower"}
    assert losses(tmp_path / "whole")[-1] < 1.5  # at first 5.6
    assert train_hyper(config, tmp_path / "whole", tokenizer)  # nothing is left to do

    save, saved = hyper_run.run_folder.save, []

    def killed(checkpoints, step, *others, **numbers):
        save(checkpoints, step, *others, **numbers)
        if step == 30 and not saved:
            saved.append(step)
            checkpoints.close()
            raise KeyboardInterrupt

    monkeypatch.setattr(hyper_run.run_folder, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_hyper(config, tmp_path / "again", tokenizer)
    assert train_hyper(config, tmp_path / "again", tokenizer)
    again = hyper_adapters.read(tmp_path / "again")
    for name, x in shared.templates.items():
        np.testing.assert_array_equal(again.templates[name], x)
    np.testing.assert_array_equal(again.codes["lower"], shared.codes["lower"])

    source = str(tmp_path / "whole")
    alone = dataclasses.replace(
        config, source=source, tasks={"upper": config.tasks["upper"]}, code_rate=0.2
    )
    assert train_hyper(alone, tmp_path / "alone", tokenizer)
    one = hyper_adapters.read(tmp_path / "alone")
    assert list(one.codes) == ["upper"]
    for name, x in shared.templates.items():
        np.testing.assert_array_equal(one.templates[name], x)
    assert losses(tmp_path / "alone")[-1] < 2.0
    merged = flat_params(load_checkpoint(tmp_path / "alone")[0])  # a checkpoint like any other
    base = flat_params(load_checkpoint(config.init_from)[0])
    name = "blocks.0/mlp_block/ffw_up/weight"
    assert np.abs(np.asarray(merged[name] - base[name])).max() > 1e-3


def test_what_does_not_fit_is_refused(run, tmp_path: Path):
    config, folder = run
    tokenizer = tokenizer_of(config)
    short = dataclasses.replace(config, sequence_length=3)
    with pytest.raises(UserError, match=r"upper\.jsonl.* tokens, more than a row of 3: raise"):
        train_hyper(short, tmp_path / "short", tokenizer)
    other = dataclasses.replace(config, source=str(folder))
    with pytest.raises(UserError, match="holds no hypernetwork adapters"):
        train_hyper(other, tmp_path / "other", tokenizer)
    hot = dataclasses.replace(config, learning_rate=1e30, log_every=1, warmup_steps=1)
    with pytest.raises(UserError, match="the loss is not finite at step"):
        train_hyper(hot, tmp_path / "hot", tokenizer)
