# SPDX-License-Identifier: Apache-2.0
"""Which processes make up a program, from the environment that each way to start one gives."""

import pytest

from training.cluster import ClusterConfig, Found, detect

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
    ("environ", "found"),
    [
        ({}, Found("one process")),
        (BY_HAND, Found("by hand", "host0:1234", 4, 2)),
        (
            {
                "GRIFFIN_COORDINATOR": "run-workers-0-0.run:1234",
                "GRIFFIN_PROCESSES": "4",
                "JOB_COMPLETION_INDEX": "3",
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            },
            Found("Kubernetes", "run-workers-0-0.run:1234", 4, 3),
        ),
        (SLURM, Found("SLURM")),
        (SLURM | {"SLURM_NTASKS": "1"}, Found("one process")),  # an interactive shell
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}, Found("TPU pod")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, Found("one process")),
        (SLURM | BY_HAND, Found("by hand", "host0:1234", 4, 2)),
    ],
)
def test_what_the_environment_says(environ, found):
    assert detect(ClusterConfig(), environ) == found


def test_what_is_given_comes_first():
    given = ClusterConfig(coordinator="other:1", processes=2, process=0)
    assert detect(given, BY_HAND) == Found("by hand", "other:1", 2, 0)
    assert detect(ClusterConfig(process=3), BY_HAND) == Found("by hand", "host0:1234", 4, 3)


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        (ClusterConfig(processes=2), {}, "coordinator is missing: give --cluster.coordinator or"),
        (ClusterConfig(coordinator="a:1", processes=2), {}, "or GRIFFIN_PROCESS$"),
        (ClusterConfig(process=4), BY_HAND, r"process=4 of cluster.processes=4: expected 0 to 3"),
        (ClusterConfig(coordinator="a"), BY_HAND, "coordinator='a': expected HOST:PORT"),
        (ClusterConfig(), BY_HAND | {"GRIFFIN_PROCESS": "two"}, "GRIFFIN_PROCESS='two'"),
    ],
)
def test_what_is_refused(given, environ, message):
    with pytest.raises(ValueError, match=message):
        detect(given, environ)
