# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of several nodes on this machine, in a process of its own (Ray's import warns).

python tests/ray_nodes.py NODES     prints the address; then, a line of its standard input each:
kill                                ends all processes of one node with signal 9
add                                 begins another node
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # by default they give way to all others
    "OPENBLAS_NUM_THREADS": "1",
}


@contextlib.contextmanager
def ray_nodes(nodes: int, **environment: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The address of a cluster of nodes of one CPU, and what tells it to kill or add one."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'griffin-lm[ray]'")
    process = subprocess.Popen(
        [sys.executable, __file__, str(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**ENVIRONMENT, **environment},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def answer() -> str:
        for line in process.stdout or ():
            if line.startswith("ready "):
                return line.split()[1]
        raise AssertionError("the cluster ended")

    def tell(order: str) -> None:
        print(order, file=process.stdin, flush=True)
        answer()

    try:
        yield answer(), tell
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def griffin(*arguments: str, **environment: str) -> subprocess.Popen:
    """The command, in a process that can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "griffin_lm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def killed(command: Sequence[str], began: Callable[[], object]) -> None:
    """The command is begun, and killed with signal 9 as soon as `began`."""
    process = griffin(*command)
    _wait(process, began)
    process.kill()
    process.communicate()


def ended(command: Sequence[str]) -> tuple[str, str]:
    """What the command writes to both outputs."""
    return _end(griffin(*command))


def ended_without_a_node(
    command: Sequence[str], tell: Callable[[str], None], when: Callable[[], object]
) -> tuple[str, str]:
    """What the command writes to both outputs. A node is killed as soon as `when`."""
    process = griffin(*command)
    _wait(process, when)
    tell("kill")
    return _end(process)


def _end(process: subprocess.Popen) -> tuple[str, str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def _wait(process: subprocess.Popen, until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nodes", type=int)
    count = parser.parse_args().nodes
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count - 1)]
    print("ready", cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1))
        print("ready", cluster.address, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
