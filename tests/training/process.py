# SPDX-License-Identifier: Apache-2.0
"""One process of a run of several: `process.py RUN_DIR PORT PROCESSES PROCESS DIE_AT PAUSE`.

It dies by SIGKILL while step DIE_AT is being computed; 0: never. It pauses for PAUSE seconds in
every step. The config is the run's.
"""

import os
import signal
import sys
import time
from pathlib import Path

from checkpoints import store
from recurrentgemma.sharding import MeshConfig
from training import cluster, loop
from training.cluster import ClusterConfig
from training.configs import TrainConfig
from training.launch import Launch

run_dir = Path(sys.argv[1])
port, processes, process, die_at, pause = map(int, sys.argv[2:])
launch = Launch(
    mesh=MeshConfig(data=2, fsdp=2, sequence=2),
    cluster=ClusterConfig(
        coordinator=f"127.0.0.1:{port}", processes=processes, process=process, heartbeat_seconds=10
    ),
)
real = loop.make_train_step


def make_train_step(*args, **options):
    compiled = real(*args, **options)

    def step(train_state, batch):
        number = int(train_state.step) + 1
        time.sleep(pause)
        program = compiled(train_state, batch)
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)  # the step was dispatched, and is not over
        return program

    return step


loop.make_train_step = make_train_step
if processes > 1:
    cluster.start(launch.cluster)
config = TrainConfig.from_json(*store.read_run_config(run_dir))
finished = loop.train(config, run_dir, launch)
print("finished" if finished else "stopped", flush=True)
