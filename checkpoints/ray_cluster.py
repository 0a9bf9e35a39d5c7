# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster, joined; and calls that are made on it, each once, whoever is lost.

Ray sends a call's function by its name: the machines that run it have this package installed, in
the same version, which each call makes sure of.
"""

import contextlib
import hashlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recurrentgemma.errors import MissingExtra, UserError

INSTALL = "--ray needs Ray: pip install 'griffin-lm[ray]'"
TRIES = 4  # of a call whose process or machine is lost
_ANSWER = 10.0  # seconds for an address to answer
_SECONDS = 0.5  # between two looks at what has ended
_PATIENCE = 60.0  # seconds without a result until somebody asks whether machines are there


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray's module, connected. address: of the cluster; "auto": the one that this machine belongs
    to; "local": one that is begun here, and ends with this. Meanwhile SIGTERM, which a scheduler
    sends, ends the command as Ctrl-C does.

    Raises MissingExtra without Ray; UserError: there is no such cluster, or it refuses us.
    """
    place = _place(address)
    if place is not None:
        _require_answer(address, *place)
    _give_token()
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra(INSTALL) from None
    before = signal.getsignal(signal.SIGTERM)  # of Ray's own handler a stack is printed
    _connect(ray, address, answers=place is not None)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield ray
    finally:
        ray.shutdown()
        if is_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _place(address: str) -> tuple[str, int] | None:
    """Host and port, if it has them. Raises UserError: it is no address."""
    if address in ("auto", "local"):
        return None
    place = re.fullmatch(r"(\[[^]/\s]+\]|[^:/\s]+):(\d+)", address)
    if place is None or not 0 < int(place[2]) < 2**16:
        raise UserError(
            f"--ray {address!r}: expected HOST:PORT of the cluster's head, such as 10.0.0.5:6379, "
            "`auto` on one of its machines, or `local`; Ray's client (ray://) is not used"
        )
    return place[1].strip("[]"), int(place[2])


def _give_token() -> None:
    """Ray 2.60 gives no token to an address, though it has one, unless it is told to; a cluster
    that asks for none takes one, too. Read when Ray is imported."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(name in os.environ for name in names) or (Path.home() / ".ray/auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _connect(ray: Any, address: str, *, answers: bool) -> None:
    """answers: something does, at a host and port."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # bare ones, too, where a node does not come up in time
        reason = " ".join(str(error).split())
        if "authent" in reason.lower() or "token" in reason.lower():
            raise UserError(
                f"--ray {address}: the cluster refuses the token, or there is none ({reason}); "
                "RAY_AUTH_TOKEN, or the file ~/.ray/auth_token, must be the cluster's, and "
                "RAY_AUTH_MODE not be another one than token"
            ) from None
        if answers:  # of a token that is refused Ray 2.60 tells its log alone
            raise UserError(
                f"--ray {address}: something answers there, but Ray is not let in ({reason}): "
                "either the token is not the cluster's (RAY_AUTH_TOKEN, or the file "
                "~/.ray/auth_token), or this port is not a cluster's"
            ) from None
        raise UserError(
            f"--ray {address}: there is no cluster ({reason}); `ray start --head` begins one, and "
            "--ray local one for this command alone. If there is one, its token is another than "
            "this machine's (RAY_AUTH_TOKEN, or the file ~/.ray/auth_token)"
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
    Raises UserError: a machine lacks this package or has another version of it, no machine has
    room for a single call, or a call raised UserError or OSError, with the machine's name.
    """
    if not room_for(ray, cpus, gpus):
        raise UserError(
            f"{machines_of(ray)}, and a task takes {cpus:g} CPUs and {gpus:g} GPUs of one machine"
        )
    patience = Patience(ray, cpus, gpus)
    share = share_of(cpus, gpus, by_xla=by_xla)
    remote = ray.remote(call).options(max_retries=TRIES - 1, scheduling_strategy="SPREAD", **share)
    reference = ray.put(shared)
    version = package_version()
    waiting = {
        remote.remote(function, version, [reference], task.arguments): task.number for task in tasks
    }
    while waiting:
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=_SECONDS)
        patience.look(bool(ended))
        for reference_of_result in ended:
            number = waiting.pop(reference_of_result)
            result, refusal = _fetch(ray, reference_of_result)
            if refusal is not None:
                for other in waiting:
                    ray.cancel(other, force=True)
                raise UserError(refusal)
            yield number, result


def room_for(ray: Any, cpus: float, gpus: float) -> int:
    """How many processes of so much the machines that are there have room for, each as a whole on
    one of them, were nothing else running."""
    wanted = {kind: amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    return sum(
        min((int(has[kind] / amount + 1e-9) for kind, amount in wanted.items()), default=1)
        for has in _machines(ray)
    )


def machines_of(ray: Any) -> str:
    """What the cluster's machines have, for a message."""
    kinds = Counter(f"{has['CPU']:g} CPUs and {has['GPU']:g} GPUs" for has in _machines(ray))
    parts = [f"{count} of {kind}" for kind, count in kinds.most_common()]
    return f"the cluster's machines are {', '.join(parts) or 'none'}"


def _machines(ray: Any) -> list[dict[str, float]]:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{kind: has.get(kind, 0.0) for kind in ("CPU", "GPU")} for has in alive]


class Patience:
    """Says once that it waits for a machine, where none with room for a process is left."""

    def __init__(self, ray: Any, cpus: float, gpus: float):
        self._room = lambda: room_for(ray, cpus, gpus)
        self._of_one = f"{cpus:g} CPUs and {gpus:g} GPUs"
        self._since, self._is_told = time.monotonic(), False

    def look(self, ended: bool) -> None:
        """ended: whether anything has, since the last look."""
        if ended:
            self._since, self._is_told = time.monotonic(), False
        elif not self._is_told and time.monotonic() - self._since > _PATIENCE:
            self._since = time.monotonic()
            if not self._room():
                self._is_told = True
                print(
                    f"no machine with {self._of_one} is left in the cluster: waiting for one "
                    "(Ctrl-C stops, and the same command goes on)",
                    file=sys.stderr,
                )


def lacking(error: Exception) -> str | None:
    """Of an error of Ray's: what to say where a machine could not import what it was sent."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, ImportError) and "ModuleNotFoundError" not in str(error):
        return None
    *_, module = re.findall(r"No module named \S+", str(error)) or str(error).strip().splitlines()
    address = re.search(r"\bip=([\w.:]+)", str(error))
    machine = f"the machine {address[1].rstrip(':')}" if address else "a machine of the cluster"
    return (
        f"{machine} lacks this package or one that it needs ({module}): install griffin-lm in "
        "the same version on every machine"
    )


def _fetch(ray: Any, reference: Any) -> tuple[Any, str | None]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if (message := lacking(error)) is not None:
            raise UserError(message) from None
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
    if (refusal := other_version(version)) is not None:
        return None, refusal
    try:
        return function(_shared(shared[0]), *arguments), None
    except (UserError, OSError) as error:
        return None, f"the machine {socket.gethostname()}: {error}"


def other_version(version: str) -> str | None:
    """What to say where this machine's package is not of this version."""
    if package_version() == version:
        return None
    return (
        f"the machine {socket.gethostname()} has griffin-lm {package_version()}, and that of the "
        f"command {version}: install the same on every machine"
    )


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
