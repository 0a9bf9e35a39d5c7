# SPDX-License-Identifier: Apache-2.0
"""Which processes make up a program, from the environment that each way to start one gives."""

import contextlib
import dataclasses
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml

from griffin_lm import main as griffin
from recurrentgemma import sharding
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig
from training import cluster
from training.cluster import Cluster, ClusterConfig, detect, start
from training.start import require_data
from training.train_cli import parse

BY_HAND = {
    "GRIFFIN_COORDINATOR": "host0:1234",
    "GRIFFIN_PROCESSES": "4",
    "GRIFFIN_PROCESS": "2",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NODELIST": "node[1-8]",
}


@pytest.mark.parametrize(
    ("environ", "cluster"),
    [
        ({}, Cluster("one process")),
        (BY_HAND, Cluster("by hand", "host0:1234", 4, 2)),
        (
            {
                "GRIFFIN_COORDINATOR": "run-workers-0-0.run:1234",
                "GRIFFIN_PROCESSES": "4",
                "JOB_COMPLETION_INDEX": "3",
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            },
            Cluster("Kubernetes", "run-workers-0-0.run:1234", 4, 3),
        ),
        (SLURM, Cluster("SLURM")),
        (SLURM | {"SLURM_NTASKS": "1"}, Cluster("one process")),  # an interactive shell
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}, Cluster("TPU pod")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, Cluster("one process")),
        (SLURM | {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}, Cluster("SLURM")),
        (SLURM | BY_HAND, Cluster("by hand", "host0:1234", 4, 2)),
    ],
)
def test_what_the_environment_says(environ, cluster):
    assert detect(ClusterConfig(), environ) == cluster


def test_what_is_given_comes_first():
    given = ClusterConfig(coordinator="other:1", processes=2, process=0)
    assert detect(given, BY_HAND) == Cluster("by hand", "other:1", 2, 0)
    assert detect(ClusterConfig(process=3), BY_HAND) == Cluster("by hand", "host0:1234", 4, 3)


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        (ClusterConfig(processes=2), {}, "coordinator is missing: give --cluster.coordinator or"),
        (ClusterConfig(coordinator="a:1", processes=2), {}, "or GRIFFIN_PROCESS$"),
        (ClusterConfig(process=4), BY_HAND, r"process=4 of cluster.processes=4: expected 0 to 3"),
        (ClusterConfig(coordinator="a"), BY_HAND, "coordinator='a': expected HOST:PORT"),
        (ClusterConfig(coordinator="a:b"), BY_HAND, "coordinator='a:b': expected HOST:PORT"),
        (ClusterConfig(coordinator="a:65536"), BY_HAND, "'a:65536': expected HOST:PORT"),
        (ClusterConfig(), BY_HAND | {"GRIFFIN_PROCESS": "two"}, "GRIFFIN_PROCESS='two'"),
        (
            ClusterConfig(),
            SLURM | {"SLURM_NNODES": "8", "SLURM_GPUS_ON_NODE": "4"},
            "8 tasks on 8 nodes of 4 GPUs, .* use --ntasks-per-node=4",
        ),
        (
            ClusterConfig(),
            SLURM | {"SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "3"},
            "SLURM_LOCALID=3, .* leave out --gpus-per-task",
        ),
    ],
)
def test_what_is_refused(given, environ, message):
    with pytest.raises(ValueError, match=message):
        detect(given, environ)


@pytest.fixture
def joined(monkeypatch) -> list[dict]:
    """The arguments of each call that would join the others."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    return calls


def test_a_port_that_is_taken_is_one_line(joined, capsys):
    with socket.create_server(("", 0)) as taken:
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ["train", "--cluster.coordinator", coordinator]
        command += ["--cluster.processes", "2", "--cluster.process", "0"]
        assert griffin(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cluster.coordinator='{coordinator}': process 0 cannot listen")
    assert "Address already in use" in line
    assert joined == []
    start(ClusterConfig(coordinator=coordinator, processes=2, process=0))
    assert [call["coordinator_address"] for call in joined] == [coordinator]


def test_process_0_is_waited_for(joined, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    other = ClusterConfig(coordinator=coordinator, processes=2, process=1, connect_seconds=1)
    with pytest.raises(UserError, match=r"process 1 cannot reach it \(Connection refused\); it is"):
        start(other)
    assert joined == []
    other = dataclasses.replace(other, connect_seconds=60)
    naps = []

    def nap(seconds: float) -> None:  # meanwhile process 0 starts
        naps.append(socket.create_server(("127.0.0.1", int(coordinator.split(":")[1]))))

    monkeypatch.setattr(cluster.time, "sleep", nap)
    start(other)
    naps[0].close()
    assert [call["process_id"] for call in joined] == [1]


def test_peers_that_never_come_are_one_line():
    """Process 0 by hand, and a SLURM job, whose coordinator JAX works out; both at one time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    for job in range(4096):  # from which JAX makes the port
        with contextlib.suppress(OSError), socket.create_server(("", 61440 + job)):
            break
    slurm = {"SLURM_JOB_ID": f"{job}", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    by_hand = {
        "GRIFFIN_COORDINATOR": coordinator,
        "GRIFFIN_PROCESSES": "2",
        "GRIFFIN_PROCESS": "0",
    }
    program = (
        "import griffin_lm, sys; sys.exit(griffin_lm.main("
        "['train', '--preset', 'tiny_bytes', '--cluster.connect-seconds', '1']))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environ in (by_hand, slurm)
    ]
    expected = (
        f"error: 2 processes were expected (by hand) at {coordinator}, and not all have come within"
        f" 1 seconds; this is process 0. Check that each",
        f"error: 8 processes were expected (SLURM) at localhost:{61440 + job}, and not all",
    )
    for process, line in zip(started, expected, strict=True):
        [shown] = process.communicate(timeout=120)[1].splitlines()
        assert shown.startswith(line)
        assert shown.endswith("--cluster.connect-seconds waits longer")
        assert process.returncode == 2


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_jobset_of_the_examples_starts_a_run():
    jobset = yaml.safe_load((EXAMPLES / "kubernetes" / "pretrain.yaml").read_text())
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    last = {**environ, "JOB_COMPLETION_INDEX": str(job["completions"] - 1)}
    first_pod = f"{jobset['metadata']['name']}-{workers['name']}-0-0"
    cluster = detect(ClusterConfig(), last)
    assert cluster == Cluster("Kubernetes", f"{first_pod}.{jobset['metadata']['name']}:8476", 4, 3)
    devices = job["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    griffin, verb, *argv = container["command"]
    assert (griffin, verb) == ("griffin", "train")
    assert_pretrains(argv, devices)


def assert_pretrains(argv: list[str], devices: int) -> None:
    """On data of one's own, over all devices."""
    arguments = parse(argv)
    require_data(arguments.preset, arguments.config)
    assert arguments.launch.mesh.resolved(devices) == MeshConfig(data=4, fsdp=8)
    sharding.check_model(arguments.config.model, dataclasses.asdict(arguments.launch.mesh))
    assert arguments.config.data.sources == ("arrayrecord:/shared/tokens/web",)
    assert arguments.launch.stopped_status == 75


def test_the_slurm_script_of_the_examples_starts_a_run():
    text = (EXAMPLES / "slurm" / "pretrain.sh").read_text()
    options = dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", text))
    nodes, tasks = int(options["nodes"]), int(options["ntasks-per-node"])
    gpus = options["gres"].removeprefix("gpu:")
    environ = SLURM | {"SLURM_NNODES": str(nodes), "SLURM_GPUS_ON_NODE": gpus}
    environ["SLURM_NTASKS"] = str(nodes * tasks)
    assert detect(ClusterConfig(), environ) == Cluster("SLURM")
    joined = text.replace("\\\n", " ")
    [command] = re.findall(r"^srun --\S+ griffin train (.*)$", joined, re.M)
    assert_pretrains(shlex.split(command), nodes * tasks)
