# SPDX-License-Identifier: Apache-2.0
"""Calls on a cluster are answered once, whoever is lost; what cannot be is said. With Ray itself:
the tests of what is built on this."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints import ray_cluster
from checkpoints.ray_cluster import (
    Patience,
    Task,
    call,
    joined,
    package_version,
    results_of,
    room_for,
    share_of,
)
from recurrentgemma.errors import MissingExtra, UserError


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__(f"a call raised\n{cause!r}")
        self.cause = cause


class FakeRay:
    """What this module asks of Ray, in this process: a call is made when its result is fetched."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, refuses: Exception | None = None, cpus: tuple[float, ...] = (2.0, 1.0)):
        self.refuses, self.cpus, self.is_joined = refuses, cpus, False
        self.cancelled: list[Any] = []
        self.options: dict[str, Any] = {}

    def init(self, *, address: str, **options: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.is_joined = True

    def shutdown(self) -> None:
        self.is_joined = False

    def nodes(self) -> list[dict[str, Any]]:
        lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [lost, *({"Alive": True, "Resources": {"CPU": cpus}} for cpus in self.cpus)]

    def put(self, value: Any) -> Any:
        return SimpleNamespace(value=value, fetch=lambda: value)

    def remote(self, function: Callable) -> Any:
        def submit(*given: Any) -> Any:
            return SimpleNamespace(fetch=lambda: function(*given))

        def options(**given: Any) -> Any:
            self.options = given
            return SimpleNamespace(remote=lambda *given: Reference(submit(*given)))

        return SimpleNamespace(options=options)

    def wait(self, calls: list, *, num_returns: int, timeout: float) -> tuple[list, list]:
        return calls[-1:], calls[:-1]  # the last is the first to end

    def get(self, reference: Any) -> Any:
        return reference.fetch()

    def cancel(self, reference: Any, *, force: bool) -> None:
        self.cancelled.append(reference)


class Reference:
    def __init__(self, call: Any):
        self.fetch = call.fetch


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def scaled(shared: int, factor: int) -> int:
    if factor == 13:
        raise UserError("13 is not asked for")
    if factor == 14:
        raise FileNotFoundError(2, "No such file", "/data")
    if factor == 15:
        raise KeyError("a bug")
    return shared * factor


def test_each_task_is_answered_with_its_number(ray):
    with joined("local") as module:
        assert module is ray
        assert ray.is_joined
        results = list(results_of(ray, scaled, 10, [Task(n, (n,)) for n in range(5)], cpus=0.5))
    assert results == [(n, 10 * n) for n in (4, 3, 2, 1, 0)]
    assert ray.options["num_cpus"] == 0.5
    assert ray.options["max_retries"] == 3
    assert ray.options["runtime_env"] == {"env_vars": {"NPROC": "1"}}
    assert not ray.is_joined


def test_a_process_keeps_to_its_share_of_a_machine(ray):
    """Where it computes by XLA on cores, which reads NPROC."""
    assert share_of(2.5, 0)["runtime_env"] == {"env_vars": {"NPROC": "2"}}
    assert "runtime_env" not in share_of(1, 1)
    list(results_of(ray, scaled, 10, [Task(0, (1,))], by_xla=False))
    assert ray.options == {
        "num_cpus": 1.0, "num_gpus": 0.0, "max_retries": 3, "scheduling_strategy": "SPREAD"
    }  # fmt: skip


def test_what_a_task_refuses_ends_them_with_the_machine_that_refused(ray):
    with pytest.raises(UserError, match=r"the machine \S+: 13 is not asked for"):
        list(results_of(ray, scaled, 1, [Task(n, (n,)) for n in (1, 2, 13)]))
    assert len(ray.cancelled) == 2
    with pytest.raises(UserError, match=r"the machine \S+: .*No such file.*/data"):
        list(results_of(ray, scaled, 1, [Task(0, (14,))]))
    with pytest.raises(KeyError, match="a bug"):
        list(results_of(ray, scaled, 1, [Task(0, (15,))]))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RayTaskError(ModuleNotFoundError("No module named 'checkpoints'")), "lacks this package"),
        (RayError("its node died"), "4 processes or machines that had the same task were lost"),
    ],
)
def test_what_is_lost_or_lacking_is_said(ray, error, message):
    def fetch() -> Any:
        raise error

    ray.get = lambda reference: fetch()
    with pytest.raises(UserError, match=message):
        list(results_of(ray, scaled, 1, [Task(0, (1,))]))
    ray.get = lambda reference: (_ for _ in ()).throw(RayTaskError(KeyError("a bug")))
    with pytest.raises(RayTaskError, match="a bug"):
        list(results_of(ray, scaled, 1, [Task(0, (1,))]))


def test_another_version_is_refused(ray, monkeypatch):
    version = package_version()
    assert version == package_version()
    assert version.startswith("0.1.0 (")
    assert call(scaled, version, [ray.put(3)], (4,)) == (12, None)
    result, refusal = call(scaled, "0.0.9 (abc)", [ray.put(3)], (4,))
    assert result is None
    assert refusal is not None
    assert refusal.endswith(
        f"has griffin-lm {version}, and that of the command 0.0.9 (abc): install the same on "
        "every machine"
    )


def test_no_cluster_no_room_no_token_and_no_ray(ray, monkeypatch):
    for refuses, message in (
        (ConnectionError("nobody answers"), "--ray auto: there is no cluster .nobody answers.; `r"),
        (RuntimeError("Unauthenticated: bad token"), "the cluster refuses the token, or there is"),
    ):
        ray.refuses = refuses
        with pytest.raises(UserError, match=message), joined("auto"):
            pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray.refuses, address = None, f"127.0.0.1:{server.getsockname()[1]}"
        with joined(address):
            assert ray.is_joined
        ray.refuses = ConnectionError("Failed to connect to Ray cluster")  # of another token, too
        with pytest.raises(UserError, match=r"something answers there, but .* the token is not"):
            joined(address).__enter__()
        ray.refuses = None
    with pytest.raises(UserError, match=f"--ray {address}: there is no cluster .*refused"):
        joined(address).__enter__()
    machines = "machines are 1 of 2 CPUs and 0 GPUs, 1 of 1 CPUs and 0 GPUs, and a task takes"
    with pytest.raises(UserError, match=f"{machines} 3 CPUs and 0 GPUs of one machine"):
        list(results_of(ray, scaled, 1, [Task(0, (1,))], cpus=3))  # though there are three
    with pytest.raises(UserError, match=f"{machines} 1 CPUs and 1 GPUs of one machine"):
        list(results_of(ray, scaled, 1, [Task(0, (1,))], gpus=1))
    for address in ("", "garbage", "ray://head:10001", "head:99999", "head", "head:"):
        with pytest.raises(UserError, match=f"--ray '{address}': expected HOST:PORT"):
            joined(address).__enter__()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'griffin-lm.ray"), joined("auto"):
        pass


def test_what_is_shared_is_fetched_once_for_many_calls(ray, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_last", (None, None))
    references = [ray.put(5), ray.put(6)]
    fetched = []
    ray.get = lambda reference: fetched.append(reference) or reference.value
    for reference in (references[0], references[0], references[1]):
        call(scaled, package_version(), [reference], (1,))
    assert fetched == references


def test_room_is_that_of_each_machine(ray):
    assert room_for(ray, 1, 0) == 3
    assert room_for(ray, 2, 0) == 1
    assert room_for(ray, 0.1, 0) == 30
    assert room_for(ray, 0, 1) == room_for(ray, 3, 0) == 0
    assert room_for(ray, 0, 0) == 2


def test_who_waits_for_a_machine_says_so_once(ray, monkeypatch, capsys):
    monkeypatch.setattr(ray_cluster, "_PATIENCE", -1.0)
    patience = Patience(ray, 1, 0)
    patience.look(False)
    assert not capsys.readouterr().err  # there is room: it takes long
    ray.cpus = ()
    for _ in range(3):
        patience.look(False)
    assert capsys.readouterr().err.count("no machine with 1 CPUs and 0 GPUs is left") == 1


def test_a_scheduler_ends_it_as_ctrl_c_does(ray):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), joined("local"):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_joined


@pytest.mark.parametrize(
    ("token", "mode", "expected"),
    [(False, None, None), (True, None, "token"), (True, "disabled", "disabled")],
)
def test_a_token_that_is_there_is_given(ray, monkeypatch, tmp_path, token, mode, expected):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.environ", {**os.environ, "HOME": str(tmp_path)})
    os.environ.pop("RAY_AUTH_MODE", None)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("secret")
    if mode is not None:
        os.environ["RAY_AUTH_MODE"] = mode
    with joined("local"):
        assert os.environ.get("RAY_AUTH_MODE") == expected
