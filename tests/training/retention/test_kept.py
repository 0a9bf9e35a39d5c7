# SPDX-License-Identifier: Apache-2.0
"""Runs that retain: measured without weight, resumed bit for bit, and what they are refused for."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from checkpoints import store
from griffin_lm import main as griffin
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from tests.checkpoints import run_steps
from tests.training.finetuning.capitals import arguments, write_base, write_data
from training.configs import TrainConfig
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.prepare import prepare
from training.launch import Launch
from training.loop import train
from training.observe.metrics import read_metrics
from training.retention import kept
from training.retention.config import RetainConfig

OF_THE_MACHINE = ("items_per_second", "tokens_per_second", "mfu", "goodput", "data_wait")
KEPT = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small: TrainConfig) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tune.jsonl")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("kept") / "kept.txt"
    path.write_text(KEPT)
    return f"text:{path}"


def tuning(base: Path, data: Path, run_dir: Path, retain: RetainConfig, **more: Any):
    """Of a few steps, each saved."""
    few = {"epochs": 12.0, "save_every": 1, "log_every": 1}
    return prepare(arguments(base, data, run_dir, retain=retain, **few | more))


def trained(prepared) -> tuple[dict[str, np.ndarray], list[dict]]:
    assert train(prepared.config, prepared.run_dir, Launch(devices=1, tensorboard=False))
    params = {n: np.asarray(a) for n, a in run_steps.restore(prepared.run_dir).params.items()}
    records = read_metrics(prepared.run_dir / "metrics.jsonl")
    shown = ("loss", "retention_loss", "retention_weight", kept.BITS)
    return params, [{n: r[n] for n in ("step", *shown) if n in r} for r in records]


def test_without_weight_it_is_plain_training(base: Path, data: Path, text: str, tmp_path: Path):
    plain, records = trained(tuning(base, data, tmp_path / "plain", RetainConfig()))
    measured = RetainConfig(method="kl", data=(text,), weight=0.0)
    params, measures = trained(tuning(base, data, tmp_path / "measured", measured))
    assert params.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(params[name], value, name)
    assert [r["loss"] for r in measures] == [r["loss"] for r in records]
    assert measures[-1][kept.BITS] > 1
    assert kept.BITS not in records[-1]


RESUMED = {
    "kl, in full": ({"method": "kl", "decay": 0.9, "floor": 0.2, "batch_size": 2}, 0),
    "kl on its own rows, by LoRA": ({"method": "kl", "weight": 2.0}, 2),
    "ewc, by LoRA": ({"method": "ewc", "fisher_gradients": 3, "weight": 100.0}, 2),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("kl, in full", marks=pytest.mark.slow),
        "kl on its own rows, by LoRA",
        pytest.param("ewc, by LoRA", marks=pytest.mark.slow),
    ],
)
def test_stopped_it_goes_on_bit_for_bit(
    name: str, base: Path, data: Path, text: str, tmp_path: Path
):
    fields, rank = RESUMED[name]
    if "own rows" not in name:
        fields = {**fields, "data": (text,)}
    more = {"retain": RetainConfig(**fields), "lora": LoraArguments(rank=rank)}
    whole, records = trained(tuning(base, data, tmp_path / "run", **more))
    steps = store.all_steps(tmp_path / "run")
    assert len(records) > 3
    assert records[0]["retention_weight"] > 0
    assert all(np.isfinite(record["retention_loss"]) for record in records)
    for step in steps[-1:]:  # as if it had been stopped before the last one
        shutil.rmtree(tmp_path / "run/checkpoints" / str(step))
    again, more_records = trained(tuning(base, data, tmp_path / "run", **more))
    for parameter, value in whole.items():
        np.testing.assert_array_equal(again[parameter], value, parameter)
    assert more_records == records


def test_it_holds_the_model(base: Path, data: Path, text: str, tmp_path: Path):
    """The more weight, the nearer to the checkpoint on the text that is retained."""
    ends = []
    for weight in (0.1, 30.0):
        retain = RetainConfig(method="kl", data=(text,), weight=weight, batch_size=2)
        prepared = tuning(
            base, data, tmp_path / f"{weight}", retain, epochs=60.0, save_every=100, log_every=100
        )
        ends.append(trained(prepared)[1][-1])
    assert ends[1]["retention_loss"] < 0.5 * ends[0]["retention_loss"]


def test_the_fisher_information_of_another_run(
    base: Path, data: Path, text: str, small: TrainConfig, tmp_path: Path
):
    retain = RetainConfig(method="ewc", data=(text,), fisher_gradients=2)
    trained(tuning(base, data, tmp_path / "one", retain))
    folder = tmp_path / "one/fisher"
    taken = dataclasses.replace(retain, fisher_gradients=256, fisher_from=str(folder))
    got, _ = trained(tuning(base, data, tmp_path / "two", taken))
    for name, value in run_steps.restore(tmp_path / "one").params.items():
        np.testing.assert_array_equal(got[name], value, name)
    other = dataclasses.replace(small, model=dataclasses.replace(small.model, mlp_width=96))
    another = write_base(tmp_path / "another", other)
    with pytest.raises(UserError, match="is of another model: mlp_width=64, and this one has 96"):
        trained(tuning(another, data, tmp_path / "three", taken))


def test_what_is_held_besides(small: TrainConfig):
    """Copies of the parameters: the checkpoint's, and Fisher information."""
    size = 4 * parameter_count(small.model)
    text = ("text:a",)
    cases = (
        (RetainConfig(), 0),
        (RetainConfig(method="kl"), 1),
        (RetainConfig(method="kl", weight=0.0), 0),
        (RetainConfig(method="l2"), 0),
        (RetainConfig(method="replay", data=text), 0),
        (RetainConfig(method="ewc", data=text), 2),
    )
    for retain, copies in cases:
        config = dataclasses.replace(small, retain=retain, init_from="base")
        assert kept.held_bytes(config) == copies * size
        by_lora = dataclasses.replace(config, lora=LoraConfig(rank=2, alpha=4.0))
        assert kept.held_bytes(by_lora) == max(0, copies - 1) * size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retain", "replay", "--retain-data", "text:{tmp}/none.txt"], "none.txt"),
        (["--retain", "l2", "--retain-data", "chat:{tmp}/late.jsonl"], "there is no text to score"),
        (["--retain", "kl", "--method", "grpo"], "--retain"),
    ],
)
def test_what_is_refused(options, message, base: Path, data: Path, tmp_path: Path, capsys):
    """Before anything is written."""
    late = {"prompt": "x" * 5000, "response": "y"}  # answered after what an evaluation reads
    (tmp_path / "late.jsonl").write_text(json.dumps(late) + "\n")
    given = [option.format(tmp=tmp_path) for option in options]
    run_dir = tmp_path / "run"
    assert griffin(["finetune", str(base), str(data), "--run-dir", str(run_dir), *given]) == 2
    assert message in capsys.readouterr().err
    assert not run_dir.exists()


def test_the_options_of_finetune():
    words = ["base", "data.jsonl", "--retain", "kl", "--retain-data", "text:a", "text:b"]
    words += ["--retain-weight", "0.75", "--retain-decay", "0.99998", "--retain-floor", "0.33"]
    assert tyro.cli(FinetuneArguments, args=words).retain == RetainConfig(
        method="kl", data=("text:a", "text:b"), weight=0.75, decay=0.99998, floor=0.33
    )
