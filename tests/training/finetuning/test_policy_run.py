# SPDX-License-Identifier: Apache-2.0
"""Runs that learn from rewards: the reward rises, and a killed run goes on bit for bit."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints.load import load_checkpoint
from checkpoints.store import latest_step
from griffin_lm import main as griffin
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from recurrentgemma.sharding import MeshConfig
from tests.checkpoints import run_steps
from tests.training.finetuning.small_policy import write_prompts, write_reward
from training.finetuning.policy_run import check_launch
from training.launch import Launch
from training.observe.metrics import read_metrics

ROOT = Path(__file__).parents[3]
KILLED = """
import sys
from pathlib import Path

import griffin_lm
from tests.compiling import QUICKLY, compiling, kept_in

folder, *arguments = sys.argv[1:]
with compiling(**kept_in(Path(folder)), **{QUICKLY: True}):  # by the programs of the other run
    griffin_lm.main(arguments)
"""
AS_HERE = {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUM_CPU_DEVICES": "8"}  # or it compiles anew
OF_THE_MACHINE = ("answers_per_second", "mfu", "goodput", "data_wait", "memory_bytes")


def command(base: Path, prompts: Path, run_dir: Path, method: str, *more: str) -> list[str]:
    return [
        *("finetune", str(base), str(prompts), "--method", method, "--run-dir", str(run_dir)),
        *("--chat-template", "none", "--dtype", "float32", "--remat", "none"),
        *("--max-new-tokens", "6", "--rollout", "16", "--no-tensorboard"),
        *more,
    ]


def records(run_dir: Path) -> list[dict]:
    return [
        {name: value for name, value in record.items() if name not in OF_THE_MACHINE}
        for record in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_the_reward_rises_in_full(base: Path, tmp_path: Path, capsys):
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    reward = f"{write_reward(tmp_path)}:reward"
    options = ["--reward", reward, "--iterations", "6", "--learning-rate", "1e-2", "--kl", "0"]
    options += ["--eval-data", str(prompts), "--eval-every", "3", "--log-every", "2"]
    options += ["--group-size", "8"]
    run_dir = tmp_path / "run"
    assert griffin(command(base, prompts, run_dir, "grpo", *options)) == 0, capsys.readouterr()
    log = records(run_dir)
    assert [record["step"] for record in log] == [0, 2, 3, 4, 6]
    assert log[-1]["reward"] > max(0.5, log[1]["reward"])  # of random tokens it is 0.1
    assert {"held_out_reward", "held_out_accuracy"} <= log[0].keys() & log[2].keys()
    names = {"accuracy", "answer_length", "kl_reference", "clipped", "entropy", "excess_ratio"}
    names |= {"ratio_above", "ratio_below", "pca_rank", "pre_activation_norm", "log_prob_gap"}
    assert names <= log[1].keys()
    assert "pca_rank" not in log[2]  # of iteration 3, which was evaluated alone
    assert all(record["log_prob_gap"] < 1e-3 for record in log[1:])
    assert log[-1]["entropy"] < log[1]["entropy"]
    load_checkpoint(run_dir)
    assert griffin(command(base, prompts, run_dir, "grpo", *options)) == 0
    assert "is trained: iteration 6" in capsys.readouterr().out
    assert griffin(["train", "--run-dir", str(run_dir)]) == 2
    assert "--method grpo" in capsys.readouterr().err


def test_killed_and_resumed_by_lora_it_is_the_same(
    base: Path, tmp_path: Path, compiled: Path, capsys
):
    """PPO with a value head, PFO and KL; SIGKILL comes in the third iteration, of which nothing was
    saved."""
    (tmp_path / "calls").write_text("40")  # so that the run that is not killed goes through
    prompts = write_prompts(tmp_path / "prompts.jsonl", calls=str(tmp_path / "calls"))
    reward = f"{write_reward(tmp_path)}:killed"
    options = ["--reward", reward, "--iterations", "4", "--learning-rate", "1e-2", "--pfo", "1"]
    options += ["--lora.rank", "4", "--save-every", "1", "--update-epochs", "2"]
    whole = tmp_path / "whole"
    assert griffin(command(base, prompts, whole, "ppo", *options)) == 0, capsys.readouterr()
    (tmp_path / "calls").write_text("0")
    killed = tmp_path / "killed"
    arguments = command(base, prompts, killed, "ppo", *options)
    line = [sys.executable, "-c", KILLED, str(compiled), *arguments]
    process = subprocess.run(
        line,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | AS_HERE,
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert latest_step(killed) in (1, 2)  # the second may not have been on disk yet
    assert griffin(command(base, prompts, killed, "ppo", *options)) == 0, capsys.readouterr()
    for name, value in run_steps.restore(whole).params.items():
        np.testing.assert_array_equal(value, run_steps.restore(killed).params[name], name)
    assert records(killed) == records(whole)

    before, after = (flat_params(load_checkpoint(path)[0]) for path in (base, killed))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("/weight")}
    assert (killed / "adapter/adapter_config.json").is_file()


def test_one_device():
    for launch in (Launch(mesh=MeshConfig(fsdp=2)), Launch(devices=2)):
        with pytest.raises(UserError, match="runs on one device: leave"):
            check_launch(launch)
    check_launch(dataclasses.replace(Launch(), devices=1))
