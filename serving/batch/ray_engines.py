# SPDX-License-Identifier: Apache-2.0
"""A batch over a Ray cluster: engines on many machines, behind the four names of batch.Takes.

Each engine lives in an actor, which Ray puts where there is room. A line goes to the engine that
has the fewest of those that have begun, and a few lines wait at each, so that no slot does. What an
engine had when its process or machine was lost is answered by another, and a new engine takes its
place as soon as there is room for one.
"""

import contextlib
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from checkpoints.ray_cluster import (
    Patience,
    joined,
    lacking,
    machines_of,
    other_version,
    package_version,
    room_for,
    share_of,
)
from checkpoints.sampled_digest import sampled_digest
from recurrentgemma.errors import UserError
from serving.batch.answerer import Answerer, Response
from serving.batch.lines import Line
from serving.engine.engine import Engine

AT_ONCE = 2  # lines at an engine for each of its slots
_SECONDS = 0.2  # an actor's call, and so the longest that an answer waits there
_LOST = 3  # engines that may be lost in a row without an answer between


class RayEngines:
    """Of `count` engines; 0: as many as the cluster's machines have room for.

    make_engine: called in each actor; Ray sends it there, so the package is installed on every
      machine, in this version, and what it reads can be read from each, and is the same.
    model: as in Answerer. slots: of each engine. cpus, gpus: that each engine takes of its machine.
    address: of the cluster; "auto": the one that this machine belongs to; "local": one that is
      begun here, and ends with this.
    files: the model's path, and its checkpoints.sampled_digest here; None: it is not here, and the
      engines are compared with one another alone.
    Raises MissingExtra without Ray; UserError: there is no such cluster, or no room in it.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        model: str,
        slots: int,
        address: str,
        count: int = 0,
        cpus: float = 1.0,
        gpus: float = 0.0,
        files: tuple[str, str | None] = ("", None),
    ):
        self._most = AT_ONCE * slots
        with contextlib.ExitStack() as stack:
            self._ray = ray = stack.enter_context(joined(address))
            room = room_for(ray, cpus, gpus)
            if room < max(count, 1):
                raise UserError(
                    f"--ray {address}: {machines_of(ray)}, which have room for {room} engines of "
                    f"{cpus:g} CPUs and {gpus:g} GPUs, and {max(count, 1)} are asked for; see "
                    "--ray-engines, --ray-cpus and --ray-gpus"
                )
            self._patience = Patience(ray, cpus, gpus)
            actor = ray.remote(_Actor).options(**share_of(cpus, gpus))
            self._new_actor = lambda: actor.remote(make_engine, model, package_version(), files)
            self._engines = [_Remote(self._new_actor()) for _ in range(count or room)]
            self._homeless: deque[Line] = deque()  # of lost engines, or before one has begun
            self._lost = 0
            self._first: _Beginning | None = None  # of the engines that have begun
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End the engines; what they were answering is lost."""
        with self._stack:
            for engine in self._engines:
                self._ray.kill(engine.actor)

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Of the model, which is that of every engine; None as long as none has begun."""
        return None if self._first is None else self._first.identity

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def _begun(self) -> list["_Remote"]:
        return [engine for engine in self._engines if engine.has_begun]

    @property
    def room(self) -> bool:
        begun = self._begun
        return not self._homeless and (not begun or any(len(e.lines) < self._most for e in begun))

    @property
    def busy(self) -> bool:
        return bool(self._homeless) or any(engine.lines for engine in self._engines)

    def take(self, line: Line) -> None:
        if not self._begun:
            self._homeless.append(line)
            return
        engine = min(self._begun, key=lambda engine: len(engine.lines))
        engine.lines[line.custom_id] = line
        engine.unsent.append(line)

    def step(self) -> list[Response]:
        """Send what is taken, and wait for a while. Raises UserError: an engine cannot be made, is
        of another version of this package or of another model than the first; or engines are lost
        one after another."""
        while self._homeless and self._begun:
            self.take(self._homeless.popleft())
        for engine in self._engines:
            if engine.call is None and engine.lines:
                engine.call = engine.actor.work.remote(engine.unsent)
                engine.unsent = []
        calls = {engine.call: engine for engine in self._engines if engine.call is not None}
        if not calls:
            return []
        ended, others = self._ray.wait(list(calls), num_returns=1, timeout=_SECONDS)
        if others:
            ended += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        self._patience.look(bool(ended))
        return [response for call in ended for response in self._answers(calls[call])]

    def _answers(self, engine: "_Remote") -> list[Response]:
        """Of a call of this engine that has ended."""
        call, engine.call = engine.call, None
        try:
            told = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            self._replace(engine, error)
            return []
        if isinstance(told, str):
            raise UserError(told)
        if isinstance(told, _Beginning):
            self._compare(told)
            engine.has_begun = True
            return []
        for response in told:
            self._lost = 0
            del engine.lines[response.line.custom_id]
        return told

    def _compare(self, begun: "_Beginning") -> None:
        self._first = first = self._first or begun
        different = [
            name for name in first.identity if begun.identity[name] != first.identity[name]
        ]
        if different:
            raise UserError(
                f"the machines {first.machine} and {begun.machine} see different models under the "
                f"same name ({', '.join(different)}): give one that every machine shares"
            )

    def _replace(self, engine: "_Remote", error: Exception) -> None:
        if (message := lacking(error)) is not None:
            raise UserError(message) from None
        self._lost += 1
        if self._lost > _LOST:
            raise UserError(
                f"{self._lost} engines were lost one after another, without an answer between: "
                f"{error}; what is answered is kept"
            )
        print(f"an engine was lost; {len(engine.lines)} lines go to others", file=sys.stderr)
        self._homeless.extend(engine.lines.values())
        self._engines[self._engines.index(engine)] = _Remote(self._new_actor())


class _Remote:
    """One engine, from here."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.lines: dict[str, Line] = {}  # by custom_id: what it has, and will be sent
        self.unsent: list[Line] = []
        self.has_begun = False  # it may be waiting for room in the cluster
        self.call: Any = actor.start.remote()


class _Beginning(NamedTuple):
    """Of an engine that is there."""

    machine: str
    identity: Mapping[str, Any]


class _Actor:
    """One engine, there."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        model: str,
        version: str,
        files: tuple[str, str | None],
    ):
        self._make_engine, self._model, self._version = make_engine, model, version
        self._files = files
        self._waiting: deque[Line] = deque()
        self._answerer: Answerer

    def start(self) -> _Beginning | str:
        """Or why there is no engine."""
        if (refusal := other_version(self._version)) is not None:
            return refusal
        machine, (path, digest) = socket.gethostname(), self._files
        try:
            if digest is not None and sampled_digest(path) not in (digest, None):
                return (
                    f"the machine {machine} sees another model at {path} than the command: give "
                    "one that every machine shares"
                )
            self._answerer = Answerer(self._make_engine(), model=self._model)
        except (UserError, OSError) as error:
            return f"the machine {machine}: {error}"
        return _Beginning(machine, self._answerer.identity)

    def work(self, lines: list[Line]) -> list[Response]:
        """Answer for a while."""
        answerer, answers = self._answerer, []
        self._waiting.extend(lines)
        end = time.monotonic() + _SECONDS
        while (self._waiting or answerer.busy) and time.monotonic() < end:
            while self._waiting and answerer.room:
                answerer.take(self._waiting.popleft())
            answers += answerer.step()
        return answers
