# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster, joined; and calls that are made on it, each once, whoever is lost.

Ray sends a call's function by its name: the machines that run it have this package installed, in
the same version, which each call makes sure of.
"""

import contextlib
import hashlib
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recurrentgemma.errors import MissingExtra, UserError

INSTALL = '--ray needs Ray: pip install "ray>=2.50"'
TRIES = 4  # of a call whose process or machine is lost
_ANSWER = 10.0  # seconds for an address to answer
_SECONDS = 0.5  # between two looks at what has ended


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray's module, connected. address: of the cluster; "auto": the one that this machine belongs
    to; "local": one that is begun here, and ends with this.

    Raises MissingExtra without Ray; UserError: there is no such cluster, or it refuses us.
    """
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra(INSTALL) from None
    connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def connect(ray: Any, address: str) -> None:
    """Raises UserError: see `joined`."""
    host, colon, port = address.rpartition(":")
    answers = bool(colon and port.isdigit() and "/" not in host)
    if answers:
        _require_answer(address, host.strip("[]"), int(port))
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # bare ones, too, where a node does not come up in time
        reason = " ".join(str(error).split())
        if "authent" in reason.lower() or "token" in reason.lower():
            raise UserError(
                f"--ray {address}: the cluster refuses the token, or there is none ({reason}); "
                "RAY_AUTH_TOKEN, or the file ~/.ray/auth_token, must be the cluster's"
            ) from None
        if answers:  # of a token that is refused Ray 2.60 tells its log alone
            raise UserError(
                f"--ray {address}: something answers there, but Ray is not let in ({reason}): "
                "either the token is not the cluster's (RAY_AUTH_TOKEN, or the file "
                "~/.ray/auth_token), or this port is not a cluster's"
            ) from None
        raise UserError(
            f"--ray {address}: there is no cluster ({reason}); `ray start --head` begins one, and "
            "--ray local one for this command alone"
        ) from None


def _require_answer(address: str, host: str, port: int) -> None:
    """Ray itself would try for minutes."""
    try:
        socket.create_connection((host, port), timeout=_ANSWER).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: there is no cluster ({error}); `ray start --head` begins one, on "
            "port 6379 if it is given no other, which must be open to this machine"
        ) from None


def share_of(cpus: float, gpus: float, *, by_xla: bool = True) -> dict[str, Any]:
    """What Ray is told of a process that takes so much of a machine. It reserves cores and binds
    nobody to them: XLA on a CPU would compute on all of the machine's, in every such process."""
    share: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
    if by_xla and not gpus:
        share["runtime_env"] = {"env_vars": {"NPROC": f"{max(1, int(cpus))}"}}  # XLA's threads
    return share


class Task(NamedTuple):
    """One call: its number, and what the function gets beside what all calls share."""

    number: int
    arguments: tuple[Any, ...] = ()


def results_of(
    ray: Any,
    function: Callable[..., Any],
    shared: Any,
    tasks: Iterable[Task],
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    by_xla: bool = True,
) -> Iterator[tuple[int, Any]]:
    """The results of function(shared, *arguments), with the tasks' numbers, as they come.

    A call whose process or machine is lost is made again, TRIES times in all; so a call may run
    twice, and what it writes must be the same each time. shared: sent to each machine once.
    by_xla: the function computes with JAX, in a new process that keeps to its share of the cores.
    Raises UserError: a machine lacks this package or has another version of it, the cluster has no
    room for a single call, or a call raised UserError or OSError, with the machine's name.
    """
    resources = ray.cluster_resources()
    for name, amount in (("CPU", cpus), ("GPU", gpus)):
        if resources.get(name, 0) < amount:
            raise UserError(
                f"the cluster has {resources.get(name, 0):g} {name}s, and a task takes {amount:g}"
            )
    share = share_of(cpus, gpus, by_xla=by_xla)
    remote = ray.remote(call).options(max_retries=TRIES - 1, scheduling_strategy="SPREAD", **share)
    reference = ray.put(shared)
    version = package_version()
    waiting = {
        remote.remote(function, version, [reference], task.arguments): task.number for task in tasks
    }
    while waiting:
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=_SECONDS)
        for reference_of_result in ended:
            number = waiting.pop(reference_of_result)
            result, refusal = _fetch(ray, reference_of_result)
            if refusal is not None:
                for other in waiting:
                    ray.cancel(other, force=True)
                raise UserError(refusal)
            yield number, result


def _fetch(ray: Any, reference: Any) -> tuple[Any, str | None]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error):
            last = str(error).strip().splitlines()[-1]
            raise UserError(
                f"a machine of the cluster lacks this package or one that it needs ({last}): "
                "install griffin-lm in the same version on every machine"
            ) from None
        raise
    except ray.exceptions.RayError as error:
        raise UserError(
            f"{TRIES} processes or machines that had the same task were lost, perhaps for want of "
            f"memory ({' '.join(str(error).split())[:300]}); what is finished is kept, and the "
            "same command goes on"
        ) from None


def call(
    function: Callable[..., Any], version: str, shared: list[Any], arguments: tuple[Any, ...]
) -> tuple[Any, str | None]:
    """On a machine of the cluster: (result, None), or (None, why there is none)."""
    if package_version() != version:
        return None, (
            f"the machine {socket.gethostname()} has griffin-lm {package_version()}, and this one "
            f"{version}: install the same on every machine"
        )
    try:
        return function(_shared(shared[0]), *arguments), None
    except (UserError, OSError) as error:
        return None, f"the machine {socket.gethostname()}: {error}"


_last: tuple[Any, Any] = (None, None)


def _shared(reference: Any) -> Any:
    """What all calls share, of which a process keeps the last."""
    global _last
    import ray  # type: ignore[import-not-found]

    if _last[0] != reference:
        _last = reference, ray.get(reference)
    return _last[1]


@cache
def package_version() -> str:
    """The version of this package, with a digest of its source files, that is equal where results
    are."""
    griffin = sys.modules.get("griffin_lm")
    if griffin is None:
        import griffin_lm as griffin
    root, digest = Path(str(griffin.__file__)).parent, hashlib.sha256()
    for package in ("kernels", "recurrentgemma", "checkpoints", "training", "eval", "serving"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{griffin.__version__} ({digest.hexdigest()[:12]})"
