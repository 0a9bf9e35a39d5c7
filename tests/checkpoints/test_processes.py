# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices each write and read one run: whole, damaged, failing and killed."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax

from checkpoints import store
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import small_config
from tests.checkpoints.two_processes import assert_same, placed, values

ROOT = Path(__file__).parents[2]


def start(index: int, port: int, run_dir: Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(index), str(port), str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    """What a process says, up to the line that is `word`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == word:
            return lines
    process.kill()
    raise AssertionError(f"{lines}\n{process.communicate()[1][-3000:]}")


def test_two_processes_and_one(tmp_path: Path):
    run_dir = tmp_path / "run"
    store.write_run_config(run_dir, small_config(), {})
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    tree = placed(values(1), mesh)
    run_steps.save(run_dir, 1, tree["params"], opt_state=tree["opt_state"])

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start(index, port, run_dir) for index in (0, 1)]
    try:
        lines = read_until(processes[0], "writing")
        for process in processes:
            process.kill()
        others = processes[1].communicate()[0].splitlines()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert lines[0] == others[0] == "saved and restored"
    assert lines[1].startswith("step 3 is damaged, and kept as ")
    assert "step 2 is the newest now" in lines[1]
    for line, cause in ((lines[2], r"process 1: \[Errno 5\]"), (others[1], r"\[Errno 5\]")):
        assert re.search(rf"3 was not saved \({cause} .*; step 2 is still there", line)
    for failed in (lines[3], others[2]):
        word, seconds, message = failed.split(" ", 2)
        assert word == "failed"
        assert float(seconds) < 60
        assert "checkpoints/3 was not saved, no space left: it needs 0.000231 GB" in message
        assert "step 2 is still there; make space or keep fewer" in message
    assert "process 1: " in lines[3]
    assert len(lines) == 5
    assert len(others) == 3  # only the first reports what both have found

    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"1", "2", "3", "3.damaged", "4.orbax-checkpoint-tmp"}
    assert store.all_steps(run_dir) == [1, 2, 3]
    with store.Checkpoints(run_dir) as checkpoints:
        restored = checkpoints.restore(params_like=tree["params"], opt_state_like=tree["opt_state"])
    assert restored is not None
    assert restored.step == 3
    assert_same(restored, 3)
    for array, like in zip(
        jax.tree.leaves(restored.opt_state), jax.tree.leaves(tree["opt_state"]), strict=True
    ):
        assert array.sharding == like.sharding
    assert not (run_dir / "checkpoints" / "4.orbax-checkpoint-tmp").exists()
