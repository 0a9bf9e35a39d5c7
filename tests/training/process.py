# SPDX-License-Identifier: Apache-2.0
"""Processes of a run of several. Not a test: see test_processes.py, which starts this.

It imports all that training needs, once, and forks every process from that. A line of JSON on its
input is a program, a list of processes; on its output come their process ids and, when all have
ended, their exit statuses. The config is the run's.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax

from checkpoints import store
from kernels.measure.command import options
from recurrentgemma.sharding import MeshConfig
from tests.compiling import QUICKLY, compiling, kept_in
from training import build, cluster, loop
from training.cluster import ClusterConfig
from training.configs import TrainConfig
from training.launch import Launch


@dataclasses.dataclass(frozen=True)
class Process:
    run_dir: str
    output: str  # a file for what it says
    compiled: str  # a folder for what it compiles
    port: int
    processes: int
    process: int
    die_at: int  # it dies by SIGKILL while this step is being computed; 0: never
    pause: int  # seconds, in every step


def fork(of: Process) -> int:
    """The process id."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(of.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    train(of)
    sys.exit()


def train(of: Process) -> None:
    jax.config.update("jax_num_cpu_devices", 8 // of.processes)
    launch = Launch(
        mesh=MeshConfig(data=2, fsdp=2, sequence=2),
        cluster=ClusterConfig(
            coordinator=f"127.0.0.1:{of.port}",
            processes=of.processes,
            process=of.process,
            heartbeat_seconds=10,
        ),
    )
    real = build.make_train_step

    def make_train_step(*args, **options):
        compiled = real(*args, **options)

        def step(train_state, batch, *beside):
            number = int(train_state.step) + 1
            time.sleep(of.pause)
            program = compiled(train_state, batch, *beside)
            if number == of.die_at:
                os.kill(os.getpid(), signal.SIGKILL)  # the step was dispatched, and is not over
            return program

        return step

    build.make_train_step = make_train_step
    if of.processes > 1:
        cluster.start(launch.cluster)
    config = TrainConfig.from_json(*store.read_run_config(Path(of.run_dir)))
    with compiling(**kept_in(Path(of.compiled)), **{QUICKLY: True}):
        finished = loop.train(config, Path(of.run_dir), launch)
    print("finished" if finished else "stopped", flush=True)


if __name__ == "__main__":
    options(__doc__).parse_args()
    for line in sys.stdin:
        pids = [fork(Process(**given)) for given in json.loads(line)]
        print(json.dumps(pids), flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(statuses), flush=True)
