# SPDX-License-Identifier: Apache-2.0
"""A batch over a Ray cluster: engines on many machines, behind the four names of batch.Takes.

Each engine lives in an actor, which Ray puts where there is room. A line goes to the engine that
has the fewest of those that have begun, and a few lines wait at each, so that no slot does. What an
engine had when its process or machine was lost is answered by another, and a new engine takes its
place as soon as there is room for one.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from checkpoints.ray_cluster import INSTALL, connect, share_of
from recurrentgemma.errors import MissingExtra, UserError
from serving.batch.answerer import Answerer, Response
from serving.batch.lines import Line
from serving.engine.engine import Engine

AT_ONCE = 2  # lines at an engine for each of its slots
_SECONDS = 0.2  # an actor's call, and so the longest that an answer waits there
_LOST = 3  # engines that may be lost in a row without an answer between


class RayEngines:
    """Of `count` engines; 0: as many as the cluster has room for.

    make_engine: called in each actor; Ray sends it there, so the package is installed on every
      machine and what it reads can be read from each.
    model: as in Answerer. slots: of each engine. cpus, gpus: that each engine takes of its machine.
    address: of the cluster; "auto": the one that this machine belongs to; "local": one that is
      begun here, and ends with this.
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
    ):
        try:
            import ray  # type: ignore[import-not-found]
        except ImportError:
            raise MissingExtra(INSTALL) from None
        self._ray, self._most = ray, AT_ONCE * slots
        connect(ray, address)
        resources = ray.cluster_resources()
        rooms = [int(resources.get("CPU", 0) // cpus)] if cpus else []
        rooms += [int(resources.get("GPU", 0) // gpus)] if gpus else []
        room = min(rooms, default=1)
        if room < max(count, 1):
            ray.shutdown()
            raise UserError(
                f"--ray {address}: this cluster has room for {room} engines of {cpus:g} CPUs and "
                f"{gpus:g} GPUs, and {max(count, 1)} are asked for; see --ray-engines, --ray-cpus "
                "and --ray-gpus"
            )
        actor = ray.remote(_Actor).options(**share_of(cpus, gpus))
        self._new_actor = lambda: actor.remote(make_engine, model)
        self._engines = [_Remote(self._new_actor()) for _ in range(count or room)]
        self._homeless: deque[Line] = deque()  # of engines that were lost, or before one has begun
        self._lost = 0

    def close(self) -> None:
        """End the engines; what they were answering is lost."""
        for engine in self._engines:
            self._ray.kill(engine.actor)
        self._ray.shutdown()

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
        """Send what is taken, and wait for a while. Raises UserError: an engine cannot be made, or
        engines are lost one after another."""
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
        return [response for call in ended for response in self._answers(calls[call])]

    def _answers(self, engine: "_Remote") -> list[Response]:
        """Of a call of this engine that has ended."""
        call, engine.call = engine.call, None
        try:
            answers, refusal = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            self._replace(engine, error)
            return []
        if refusal is not None:
            raise UserError(refusal)
        engine.has_begun = True
        for response in answers:
            self._lost = 0
            del engine.lines[response.line.custom_id]
        return answers

    def _replace(self, engine: "_Remote", error: Exception) -> None:
        self._lost += 1
        if self._lost > _LOST:
            raise UserError(
                f"{self._lost} engines were lost one after another, without an answer between: "
                f"{error}; what is answered is kept"
            )
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


class _Actor:
    """One engine, there. Every call gives (answers, None), or ([], why there is no engine)."""

    def __init__(self, make_engine: Callable[[], Engine], model: str):
        self._make_engine, self._model = make_engine, model
        self._waiting: deque[Line] = deque()
        self._answerer: Answerer

    def start(self) -> tuple[list[Response], str | None]:
        try:
            self._answerer = Answerer(self._make_engine(), model=self._model)
        except UserError as error:
            return [], str(error)
        return [], None

    def work(self, lines: list[Line]) -> tuple[list[Response], str | None]:
        """Answer for a while."""
        answerer, answers = self._answerer, []
        self._waiting.extend(lines)
        end = time.monotonic() + _SECONDS
        while (self._waiting or answerer.busy) and time.monotonic() < end:
            while self._waiting and answerer.room:
                answerer.take(self._waiting.popleft())
            answers += answerer.step()
        return answers, None
