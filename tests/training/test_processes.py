# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices train as one; one of them is killed, or told to stop."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from checkpoints import store
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.checkpoints import run_steps
from tests.compiling import by_processes
from training import run, run_folder
from training.configs import TrainConfig
from training.observe.metrics import TIMINGS, read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """process.py, from which every process is forked: to start anew takes each of them seconds."""
    command = [sys.executable, str(Path(__file__).with_name("process.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as parent:
        yield parent


class Programs(NamedTuple):
    """Starts programs that share what they compile."""

    forks: subprocess.Popen[str]
    compiled: Path

    def start(
        self, run_dir: Path, processes: int = 2, *, die_at: int = 0, pause: int = 0
    ) -> "Program":
        """So many processes, of eight devices together, that train one run; the last one dies."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        outputs = [run_dir.with_name(f"{run_dir.name}.{port}.{n}") for n in range(processes)]
        given = [
            {
                "run_dir": str(run_dir),
                "output": str(output),
                "compiled": str(by_processes(self.compiled) / f"{processes}"),
                "port": port,
                "processes": processes,
                "process": process,
                "die_at": die_at if process == processes - 1 else 0,
                "pause": pause,
            }
            for process, output in enumerate(outputs)
        ]
        assert self.forks.stdin is not None
        print(json.dumps(given), file=self.forks.stdin, flush=True)
        return Program(self.forks, read_line(self.forks), outputs)

    def ended(
        self, run_dir: Path, processes: int = 2, *, die_at: int = 0
    ) -> tuple["Program", list[int]]:
        """A program that has ended, and its exit statuses. It starts again, as a cluster would have
        it, where Gloo gave up: it waits 30 seconds for a process that still compiles on a busy
        machine."""
        for _ in range(4):
            program = self.start(run_dir, processes, die_at=die_at)
            statuses = program.wait()
            if not any("Connect timeout" in text for text in program.output()):
                break
        return program, statuses

    def finish(self, run_dir: Path, processes: int = 2) -> list[str]:
        """Train to the end; what each process said."""
        program, statuses = self.ended(run_dir, processes)
        assert statuses == [0] * processes, program.output()
        assert all(text.splitlines()[-1] == "finished" for text in program.output())
        return program.output()


class Program(NamedTuple):
    forks: subprocess.Popen[str]
    pids: list[int]
    outputs: list[Path]

    def wait(self) -> list[int]:
        """Exit statuses."""
        late = threading.Timer(300, self._kill)
        late.start()
        try:
            return read_line(self.forks)
        finally:
            late.cancel()

    def _kill(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def output(self) -> list[str]:
        return [output.read_text() for output in self.outputs]


def read_line(forks: subprocess.Popen[str]) -> list[int]:
    assert forks.stdout is not None
    return json.loads(forks.stdout.readline())


@pytest.fixture(scope="module")
def programs(forks: subprocess.Popen[str], compiled: Path) -> Programs:
    return Programs(forks, compiled)


def begin(small: TrainConfig, run_dir: Path) -> Path:
    run.begin_run(run_dir, small, ByteTokenizer())
    return run_dir


def left_by(run_dir: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Metrics without what the machine did, and the parameters at the end."""
    records = read_metrics(run_dir / run_folder.METRICS)
    for record in records:
        for name in TIMINGS:
            del record[name]
    params = run_steps.restore(run_dir, 12).params
    return records, {name: np.asarray(array) for name, array in params.items()}


@pytest.fixture(scope="module")
def whole(small, programs, tmp_path_factory):
    """What two processes leave that nothing interrupts."""
    run_dir = begin(small, tmp_path_factory.mktemp("two") / "whole")
    output = programs.finish(run_dir)
    assert "8 devices, data=2 x fsdp=2 x sequence=2, in 2 processes" in output[0]
    assert output[1].count("\n") - output[1].count("[Gloo]") == 1  # only the first one speaks
    return left_by(run_dir)


def assert_same(got, whole):
    assert got[0] == whole[0]
    for name, array in whole[1].items():
        np.testing.assert_array_equal(got[1][name], array, err_msg=name)


def test_one_of_two_is_killed_and_both_start_again(small, programs, tmp_path, whole):
    """With -9 while step 7 is computed: parameters and metrics are those of the whole run, bit for
    bit."""
    run_dir = begin(small, tmp_path / "killed")
    program, statuses = programs.ended(run_dir, die_at=7)
    other, killed = statuses  # the other does not wait for the dead one for ever
    assert killed == -signal.SIGKILL, program.output()
    assert other not in (0, -signal.SIGKILL)
    assert store.latest_step(run_dir) == 4
    programs.finish(run_dir)
    assert_same(left_by(run_dir), whole)


def test_a_signal_to_one_stops_both_and_one_process_goes_on(small, programs, tmp_path, whole):
    """At the same step; then on as many devices: the same batches, sums in another order."""
    run_dir = begin(small, tmp_path / "stopped")
    program = programs.start(run_dir, pause=1)
    deadline = time.monotonic() + 200
    while len(read_metrics(run_dir / run_folder.METRICS)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(program.pids[1], signal.SIGTERM)
    assert program.wait() == [0, 0], program.output()
    step = store.latest_step(run_dir)
    assert step is not None
    assert step < 12
    assert f"stopped at step {step}; the same command goes on from there" in program.output()[0]
    programs.finish(run_dir, 1)
    for record, expected in zip(left_by(run_dir)[0], whole[0], strict=True):
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert record["tokens"] == expected["tokens"]
