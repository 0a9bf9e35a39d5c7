# SPDX-License-Identifier: Apache-2.0
"""One thread that owns the engine: it builds it, steps it, and hands every event to the job that
waits for it.

The engine is synchronous and belongs to this thread alone. Other threads speak to it through
`submit` and `cancel`, which only leave a note; they never wait for the device. The queue is
bounded: what does not fit is refused at once.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from recurrentgemma.errors import UserError, is_out_of_memory
from serving.engine.engine import Engine
from serving.engine.request import Event, GenerationRequest

Status = Literal["loading", "ready", "failed", "stopped"]

# A step is one prefill chunk and a few decode steps. One that takes this long has hung.
STALLED_AFTER_S = 120.0

_FAILED = "the engine has failed: see the server's log and restart it"
_FULL = "the engine has run out of device memory: restart it with fewer --slots"
_STOPPING = "the server is shutting down"
_DRAINING = "the server ends what it has begun and takes nothing new: ask another one, or try later"


class QueueFull(Exception):
    """Every slot is taken and the queue is full: try again later."""


class EngineUnavailable(Exception):
    """The engine is loading, has failed or is stopping; the message says which."""


class Occupancy(NamedTuple):
    """Sequences that have a slot, and that wait for one."""

    slots: int
    running: int
    waiting: int


class Job:
    """The sequences of one HTTP request. `deliver(i, event)` gets the events of its i-th sequence,
    on the engine's thread; an `EngineUnavailable` in the event's place says that no more will come.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        deliver: Callable[[int, Event | EngineUnavailable], None],
    ):
        self.requests = tuple(requests)
        self.deliver = deliver


class EngineThread:
    """`build` makes the engine (load, compile) on the thread itself; `on_change` is told of each
    new status there.
    """

    def __init__(
        self,
        build: Callable[[], Engine],
        *,
        max_waiting: int,
        on_change: Callable[[Status], None] = lambda status: None,
    ):
        if max_waiting < 0:
            raise UserError(f"max_waiting is {max_waiting}: expected 0 or more sequences")
        self.status: Status = "loading"
        self.error: BaseException | None = None
        self.max_waiting = max_waiting
        self._build = build
        self._on_change = on_change
        self._engine: Engine | None = None
        self._failure = _FAILED
        self._wake = threading.Condition()  # guards the fields below
        self._notes: list[tuple[Literal["submit", "cancel"], Job]] = []
        self._taken: list[tuple[Literal["submit", "cancel"], Job]] = []  # being carried out
        self._listeners: dict[
            int, tuple[Job, int]
        ] = {}  # engine's id -> (job, which of its sequences)
        self._unfinished = 0
        self._closing = False
        self.draining = False
        self.last_event = -math.inf  # when the engine last told something, by time.monotonic()
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, *, timeout_s: float) -> bool:
        """End every job and the thread, and leave the engine idle; True when it ended in time (a
        compilation cannot be interrupted).
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def drain(self) -> None:
        """From now on nothing new is taken; what was taken goes on to its end."""
        self.draining = True

    @property
    def engine(self) -> Engine:
        """The engine, to ask what it can do. Raises EngineUnavailable unless it takes requests."""
        if self.status == "failed":
            raise EngineUnavailable(self._failure)
        if self._closing:
            raise EngineUnavailable(_STOPPING)
        if self.draining:
            raise EngineUnavailable(_DRAINING)
        if self.status == "loading" or self._engine is None:
            raise EngineUnavailable("the model is loading or compiling: try again in a moment")
        return self._engine

    @property
    def capacity(self) -> int:
        return self.engine.slots + self.max_waiting

    @property
    def unfinished(self) -> int:
        """How many sequences run or wait."""
        return self._unfinished

    @property
    def built(self) -> Engine | None:
        """The engine, to look at, whatever becomes of it."""
        return self._engine

    @property
    def occupancy(self) -> Occupancy | None:
        """How full it is, while it lives and is not loading."""
        if self.status != "ready" or self._engine is None:
            return None
        unfinished = self._unfinished
        running = min(self._engine.running, unfinished)
        return Occupancy(slots=self._engine.slots, running=running, waiting=unfinished - running)

    def stalled_for_s(self) -> float:
        """How long past its limit the running step is; 0 in a healthy engine."""
        began = self._step_began
        return 0.0 if began is None else max(0.0, time.monotonic() - began - STALLED_AFTER_S)

    def submit(self, job: Job) -> None:
        """Queue all of a job's sequences or none. Raises QueueFull or EngineUnavailable."""
        with self._wake:
            capacity = self.capacity
            if self._unfinished + len(job.requests) > capacity:
                raise QueueFull(
                    f"{self._unfinished} of {capacity} places are taken and this request needs "
                    f"{len(job.requests)}: try again later"
                )
            self._unfinished += len(job.requests)
            self._notes.append(("submit", job))
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Free what the job still holds; nothing more is delivered. Does nothing for a finished
        job.
        """
        with self._wake:
            self._notes.append(("cancel", job))
            self._wake.notify()

    def _run(self) -> None:
        try:
            engine = self._engine = self._build()
            self._become("ready")
            while self._take_notes(engine):
                self._step_began = time.monotonic()
                events = engine.step()
                self._step_began = None
                if events:
                    self.last_event = time.monotonic()
                for event in events:
                    self._dispatch(event)
            for id in self._listeners:
                engine.cancel(id)
        except BaseException as error:  # whatever it was, nobody may wait for it in vain
            self.error = error
            self._failure = _FULL if is_out_of_memory(error) else _FAILED
            self._end("failed", self._failure)
            return
        self._end("stopped", _STOPPING)

    def _become(self, status: Status) -> None:
        self.status = status
        self._on_change(status)

    def _take_notes(self, engine: Engine) -> bool:
        """Carry out what was asked for; wait while there is nothing to do. False when closing."""
        with self._wake:
            while not (self._notes or self._closing or engine.busy):
                self._wake.wait()
            if self._closing:
                return False
            self._taken, self._notes = self._notes, []
        for kind, job in self._taken:
            if kind == "submit":
                index = 0
                for _, alike in itertools.groupby(job.requests, _prompt_of):
                    for number in engine.submit_all(list(alike)):
                        self._listeners[number] = (job, index)
                        index += 1
            else:
                for id in [id for id, (owner, _) in self._listeners.items() if owner is job]:
                    engine.cancel(id)
                    self._forget(id)
        self._taken = []
        return True

    def _dispatch(self, event: Event) -> None:
        job, index = self._listeners[event.request_id]
        if event.finish_reason is not None:
            self._forget(event.request_id)
        job.deliver(index, event)

    def _forget(self, id: int) -> None:
        del self._listeners[id]
        with self._wake:
            self._unfinished -= 1

    def _end(self, status: Status, reason: str) -> None:
        with self._wake:
            self._closing = True
            notes, self._notes = [*self._taken, *self._notes], []
        waiting = [job for kind, job in notes if kind == "submit"]
        self._become(status)
        heard = [job for job, _ in self._listeners.values()]
        for job in {id(job): job for job in (*heard, *waiting)}.values():
            job.deliver(0, EngineUnavailable(reason))
        self._listeners.clear()


def _prompt_of(request: GenerationRequest) -> int:
    """Equal for requests with one prompt, which is read once."""
    return id(request.prompt)
