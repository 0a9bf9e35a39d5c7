# SPDX-License-Identifier: Apache-2.0
"""Sessions that learn from what they read: dynamic evaluation (eval/dynamic) of a low-rank adapter
each, beside all other sequences of the engine.

    adaptations = Adaptations(folder, lm, engine.adapters, most=2)
    adaptations.turn_on("alice", point)
    with adaptations.of("alice", point) as adaptation:
        request = GenerationRequest(..., before=adaptation.before, adapter=adaptation.served)
        ...
        adaptation.learn(tokens)                # scored, learned: a new version, if a segment ended
        adaptation.save()

`Sessions` (sessions.py) does so for whoever goes on with a session. An adapter stands in a place of
the bank, as any does: so it changes no bit of anybody else. When it has learned it is another
version in another place, and no state that was computed with the one before is used: the next turn
reads the last REREAD tokens once more, from an empty state. What was before them has left its trace
in the adapter.

Each is one file beside that of its session, written when an answer is over, and so goes on after a
restart. At most `most` are held in memory, each with an adapter in the bank, its optimizer and a
state; the others wait on disk. A turn learns from its last LEARNED tokens, one session at a time.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig
from eval.dynamic.learner import LossNotFinite
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.reading import Point
from serving.features.adapters import Adapters, ServedAdapter

ENDING = ".adapter"
GO_ON = "have it go on as the base (DELETE .../adapt)"
REREAD = 1024  # tokens of a session that the next version begins with
LEARNED = 4096  # tokens of a turn, the last ones, that are learned from
PLACES_EACH = 2  # of the bank: the version that answers, and the one that was learned meanwhile
CHOICES = DynamicConfig(parameters="lora", reset_parameters=False)


class AdaptationBusy(Exception):
    """As many sessions that learn are answering as this server holds in memory."""


class AdaptationDamaged(UserError):
    """An adapter's file cannot be gone on with; its session and all others are as they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationInfo:
    """version: how often it has learned; 0 is the base. tokens: that it was given to learn from.
    stopped: why it learns no more, if it does not."""

    version: int
    tokens: int
    stopped: str | None


class Adaptation:
    """Of one session, in memory."""

    def __init__(self, adaptations: "Adaptations", name: str, online: OnlineAdapter):
        self._adaptations, self._name, self._online = adaptations, name, online
        self.before = Point()
        self.served: ServedAdapter | None = None
        self.spoiled = False  # it has learned what its file may not have
        self._place()

    @property
    def info(self) -> AdaptationInfo:
        note = self._online.note
        return AdaptationInfo(
            version=self._online.version, tokens=note["tokens"], stopped=note["stopped"]
        )

    @property
    def version(self) -> str:
        """Of the adapter, by its numbers: what Point.adapter says of a state."""
        return "" if self.served is None else self.served.version

    def stand_at(self, point: Point) -> None:
        """Its session stands there: `before` is that, with a state of this version or none.

        What the session has read and the adapter has not, because the server was killed between
        writing the one and the other, is learned from now, as far as it is known.
        """
        missed = point.count - self._online.note["tokens"] - self._online.note["since"]
        if missed > 0:
            self.learn(point.context[-missed:])
        self._online.note["since"] = point.count - self._online.note["tokens"]
        if point.adapter != self.version:
            raise AdaptationDamaged(
                f"session {self._name!r} has learned with another adapter than is there now: put "
                f"its own back, or {GO_ON}",
                field="session",
            )
        self.before = point

    def learn(self, tokens: Sequence[int]) -> None:
        """The session has read these, and learns from them where they complete a segment. Where a
        loss is not finite it keeps the last good parameters, and learns no more."""
        note = self._online.note
        note["tokens"] += len(tokens)
        if note["stopped"] is not None:
            return
        with self._adaptations.learning:
            before, finite = self._online.version, True
            try:
                if len(tokens) > LEARNED:
                    self._online.start()  # a gap: what follows is a text of its own
                self._online.feed([int(id) for id in tokens[-LEARNED:]])
            except LossNotFinite as error:
                note["stopped"], finite = str(error), False
            if self._online.version != before or not finite:  # then they are earlier ones
                self._place()
            self._adaptations.updates += self._online.version - before

    def save(self) -> None:
        """Into its file."""
        self._online.save(self._adaptations.path(self._name))

    def _place(self) -> None:
        if self._online.version:
            self.served = self._adaptations.place(self._name, self._online)


class Adaptations:
    """Those of the sessions in a folder. Any thread may call it, and one at a time goes on with a
    session.

    most: in memory at once. choices: of dynamic evaluation; what is learned is a low-rank adapter.
    Raises UserError: as check_choices; the bank is too small for what they learn.
    """

    def __init__(
        self,
        folder: Path,
        lm: LanguageModel,
        adapters: Adapters,
        *,
        most: int,
        choices: DynamicConfig = CHOICES,
    ):
        self.choices = check_choices(choices)
        if adapters.bank.rank < choices.lora.rank:
            raise UserError(
                f"adapters of rank {choices.lora.rank} are learned, and the server has places for "
                f"{adapters.bank.rank}: raise --adapter-rank"
            )
        self._folder, self._lm, self._adapters, self._most = folder, lm, adapters, most
        self._held: dict[str, Adaptation] = {}  # in memory, the one used last at the end
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self.learning = threading.Lock()  # one at a time: what others wait for is bounded
        self.updates = 0  # since the server began

    def path(self, name: str) -> Path:
        return adapter_file(self._folder, name)

    def has(self, name: str) -> bool:
        """Whether the session of this name learns."""
        return self.path(name).is_file()

    def info(self, name: str) -> AdaptationInfo | None:
        """Of a session that learns. Raises AdaptationDamaged."""
        if not self.has(name):
            return None
        with self._lock:
            return (self._held.get(name) or self._read(name)).info

    def turn_on(self, name: str, point: Point) -> None:
        """From here on it learns, from what comes next."""
        online = OnlineAdapter(self._lm, self.choices)
        online.note = {"tokens": 0, "since": point.count, "stopped": None}
        online.save(self.path(name))

    def turn_off(self, name: str) -> None:
        """What it has learned is forgotten."""
        with self._lock:
            self._held.pop(name, None)
            self.path(name).unlink(missing_ok=True)

    def copy(self, name: str, new: str) -> None:
        """What one has learned is another's, too. Raises AdaptationDamaged."""
        with self._lock:
            self._read(name)._online.save(self.path(new))

    @contextlib.contextmanager
    def of(self, name: str, point: Point) -> Iterator[Adaptation]:
        """That of a session which stands there, in memory until it is used no more.

        Raises AdaptationBusy, AdaptationDamaged.
        """
        with self._lock:
            adaptation = self._held.pop(name, None)
            if adaptation is None:
                self._make_room()
                adaptation = self._read(name)
            self._held[name] = adaptation
            self._busy.add(name)
        try:
            adaptation.spoiled = True  # where it cannot stand there
            adaptation.stand_at(point)
            adaptation.spoiled = False
            yield adaptation
        finally:
            with self._lock:
                self._busy.discard(name)
                if adaptation.spoiled:
                    self._held.pop(name, None)

    def place(self, name: str, online: OnlineAdapter) -> ServedAdapter:
        """In the bank."""
        return self._adapters.place(
            f"session {name}", online.adapted, scale=self.choices.lora.scale
        )

    def _make_room(self) -> None:
        if len(self._held) < self._most:
            return
        idle = next((name for name in self._held if name not in self._busy), None)
        if idle is None:
            raise AdaptationBusy(
                f"{self._most} sessions that learn are answering, as many as this server holds at "
                "once: try again, or have it started with more --adapting"
            )
        del self._held[idle]

    def _read(self, name: str) -> Adaptation:
        try:
            online = OnlineAdapter.load(self.path(name), self._lm)
        except UserError as error:
            message = f"session {name!r}: {error}; or {GO_ON}"
            raise AdaptationDamaged(message, field="session") from None
        return Adaptation(self, name, online)


def adapter_file(folder: Path, name: str) -> Path:
    """Of the session of this name; where there is none it does not learn."""
    return folder / f"{name}{ENDING}"


def reread(point: Point, adapter: str = "") -> Point:
    """Where its last tokens are read anew, with this version of an adapter."""
    return point._replace(state=None, unread=point.context[-REREAD:], adapter=adapter)


def check_choices(choices: DynamicConfig) -> DynamicConfig:
    """The choices, if sessions can learn by them. Raises UserError."""
    if choices.parameters != "lora":
        raise UserError(
            f"parameters={choices.parameters}: a session learns a low-rank adapter: expected lora"
        )
    if choices.reset_parameters:
        raise UserError("reset_parameters: a session keeps what it has learned: turn it off")
    if choices.needs_statistics or choices.replay.of == "text":
        raise UserError("rms, ewc and replay of a text need training text, which a server has not")
    if not choices.learns:
        raise UserError("optimizer.algorithm=none: a session that adapts learns something")
    return choices


def warm_up(lm: LanguageModel, choices: DynamicConfig) -> None:
    """Compile what learning takes. Raises UserError: sessions of this model cannot learn."""
    if "global_attention" in lm.config.block_types:
        raise UserError("--adapting: a model with global attention cannot go on without end")
    online = OnlineAdapter(lm, check_choices(choices))
    online.feed([0] * (choices.segment_length + 1))
