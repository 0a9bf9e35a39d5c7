# SPDX-License-Identifier: Apache-2.0
"""Many processes as one program: how each finds the others, and how all stop at the same step.

Where a run is started tells who the others are, and this is asked in turn:

    by hand       --cluster.coordinator, --cluster.processes, --cluster.process, or the variables
                  GRIFFIN_COORDINATOR, GRIFFIN_PROCESSES, GRIFFIN_PROCESS
    Kubernetes    the same variables, the process by JOB_COMPLETION_INDEX, which an indexed Job sets
    SLURM         srun's variables, where it started more than one task
    TPU pod       the hosts of a slice, on Google Cloud or GKE
    one process   otherwise

SLURM and TPU pods are JAX's own to read; the rest is said here, and docs/training.md has a file for
each.
"""

import dataclasses
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import multihost_utils

from recurrentgemma.errors import UserError

Kind = Literal["by hand", "Kubernetes", "SLURM", "TPU pod", "one process"]
CONNECT_SECONDS = 300  # that a process waits for all others
HEARTBEAT_SECONDS = 100  # without a sign of life for so long, a process counts as dead


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What to start with instead of what is detected. -1 and an empty text: what is detected."""

    coordinator: str = ""
    """HOST:PORT of process 0, which all others can reach."""
    processes: int = -1
    """How many there are."""
    process: int = -1
    """Which one this is, from 0 on."""
    heartbeat_seconds: int = HEARTBEAT_SECONDS
    """Without a sign of life for so long, a process counts as dead and the others stop."""

    connect_seconds: int = CONNECT_SECONDS
    """How long a process waits for all others to come."""

    def __post_init__(self) -> None:
        for name in ("heartbeat_seconds", "connect_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"cluster.{name}={getattr(self, name)}: expected at least 1")


class Cluster(NamedTuple):
    """What starts the program; None: JAX finds it by itself."""

    kind: Kind
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def detect(given: ClusterConfig, environ: Mapping[str, str]) -> Cluster:
    """Who the processes of this program are.

    Raises:
      UserError: something is given in part, or is not a number in range.
    """
    coordinator = given.coordinator or environ.get("GRIFFIN_COORDINATOR", "")
    processes = _number(given.processes, environ, "GRIFFIN_PROCESSES")
    process = _number(given.process, environ, "GRIFFIN_PROCESS")
    kind: Kind = "by hand"
    if coordinator and process is None and "JOB_COMPLETION_INDEX" in environ:
        kind, process = "Kubernetes", _number(-1, environ, "JOB_COMPLETION_INDEX")
    parts = {"coordinator": coordinator or None, "processes": processes, "process": process}
    if any(value is not None for value in parts.values()):
        missing = [name for name, value in parts.items() if value is None]
        if missing:
            raise UserError(
                f"a cluster by hand needs coordinator, processes and process; {missing[0]} is "
                f"missing: give --cluster.{missing[0]} or GRIFFIN_{missing[0].upper()}"
            )
        assert processes is not None
        assert process is not None
        address = re.fullmatch(r".+:(\d+)", coordinator)
        if address is None or int(address[1]) > 65535:
            raise UserError(f"cluster.coordinator={coordinator!r}: expected HOST:PORT")
        if not 0 <= process < processes:
            raise UserError(
                f"cluster.process={process} of cluster.processes={processes}: expected 0 to "
                f"{processes - 1}"
            )
        return Cluster(kind, coordinator, processes, process)
    tasks = _number(-1, environ, "SLURM_NTASKS")
    if tasks is not None and tasks > 1 and "SLURM_PROCID" in environ:
        _check_slurm(tasks, environ)
        return Cluster("SLURM")
    if len(environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return Cluster("TPU pod")
    return Cluster("one process")


def _check_slurm(tasks: int, environ: Mapping[str, str]) -> None:
    """JAX gives each of SLURM's tasks one device of its node, which must be all that there are."""
    nodes, gpus = _number(-1, environ, "SLURM_NNODES"), _number(-1, environ, "SLURM_GPUS_ON_NODE")
    if nodes and gpus and tasks != nodes * gpus:
        raise UserError(
            f"SLURM started {tasks} tasks on {nodes} nodes of {gpus} GPUs, and each task gets one: "
            f"use --ntasks-per-node={gpus}"
        )
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    local = _number(-1, environ, "SLURM_LOCALID")
    if local and visible and local >= len(visible.split(",")):
        raise UserError(
            f"SLURM_LOCALID={local}, and CUDA_VISIBLE_DEVICES={visible!r} has no device of that "
            "number: each task must see all GPUs of its node; leave out --gpus-per-task"
        )


def _number(given: int, environ: Mapping[str, str], variable: str) -> int | None:
    if given >= 0:
        return given
    if variable not in environ:
        return None
    try:
        return int(environ[variable])
    except ValueError:
        raise UserError(f"{variable}={environ[variable]!r}: expected a whole number") from None


def start(given: ClusterConfig) -> Cluster:
    """Join the other processes; to be called before anything else asks JAX for its devices. Where
    some of them do not come in time, the program ends with one line and status 2.

    Raises:
      UserError: see detect; or process 0 of a cluster by hand cannot listen or be reached.
    """
    cluster = detect(given, os.environ)
    if cluster.kind == "one process":
        return cluster
    arguments: dict[str, Any] = {
        "heartbeat_timeout_seconds": given.heartbeat_seconds,
        "initialization_timeout": given.connect_seconds + 60,  # ours comes first
    }
    if cluster.coordinator is not None:
        arguments |= {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
        }
        _look_first(cluster.coordinator, cluster.process, given.connect_seconds)
    with _ends_where_others_do_not_come(cluster, given.connect_seconds):
        jax.distributed.initialize(**arguments)
    return cluster


@contextmanager
def _ends_where_others_do_not_come(cluster: Cluster, seconds: int) -> Iterator[None]:
    """Ends the program after so many seconds. JAX, which waits in C++, would abort with a stack
    trace; from there no error comes back to Python, so that this is a thread's to say."""

    def end() -> None:
        print(f"error: {_who_is_missing(cluster, seconds)}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _who_is_missing(cluster: Cluster, seconds: int) -> str:
    from jax._src import distributed  # JAX has no public name for what it has detected

    known = distributed.global_state
    coordinator = cluster.coordinator or known.coordinator_address
    where = f"at {coordinator}" if coordinator else "and the host of process 0 has no address yet"
    count = cluster.processes or (known.num_processes if coordinator else None)
    return (
        f"{count or 'several'} processes were expected ({cluster.kind}) {where}, and not all have "
        f"come within {seconds} seconds; this is process {known.process_id}. Check that each was "
        f"started, with the same coordinator and number of processes, that its own log has no "
        f"error, and that it can reach that address (firewall, name); "
        f"--cluster.connect-seconds waits longer"
    )


def _look_first(coordinator: str, process: int | None, seconds: int) -> None:
    """Raises UserError where process 0 cannot listen, or another cannot reach it. JAX would end in
    a stack trace of C++."""
    host, _, port = coordinator.rpartition(":")
    if process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                f"cluster.coordinator={coordinator!r}: process 0 cannot listen on port {port} "
                f"({error.strerror}); give all processes another one"
            ) from error
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"cluster.coordinator={coordinator!r}: process {process} cannot reach it "
                    f"({error.strerror or error}); it is the address of process 0, which must "
                    f"start at most {seconds} seconds after the others "
                    f"(--cluster.connect-seconds)"
                ) from error
        time.sleep(1)


def is_first() -> bool:
    """Whether this process writes what is written once: config, metrics, the progress bar."""
    return jax.process_index() == 0


def should_stop(step: int, signalled: bool) -> bool:
    """Whether to save and end after this step: a signal has come, to this process or, where there
    are several, to any of them (they agree on the step). All must ask after every step."""
    if jax.process_count() == 1:
        return signalled
    return multihost_utils.reached_preemption_sync_point(step)


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that is empty until SIGINT or SIGTERM puts its number there, once; a second signal
    ends the process.

    Where there are several processes SIGTERM is JAX's, which tells the others of it (see
    should_stop), and SIGINT is passed on as SIGTERM.
    """
    received: list[int] = []
    alone = jax.process_count() == 1
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(signalled: int, _frame: object) -> None:
        received.append(signalled)
        for number, handler in before.items():
            signal.signal(number, handler)
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
