# SPDX-License-Identifier: Apache-2.0
"""Named sessions: what a model has read and said, as one small file each, whatever its length.

    sessions = Sessions(Path("sessions"), lm)
    with sessions.lease("alice") as lease:          # nobody else goes on with it meanwhile
        request = GenerationRequest(prompt=ids, before=lease.point, ...)
        ...
        lease.answered(request, state, tokens)      # or it stays as it was

A file is that of `Session.save`: `lm.session("sessions/alice.session")` goes on from it, and what
`Session.save` wrote there is a session here. A session is read from its file when it is used and
written when an answer is over: a server that is killed loses none. Several servers may share the
folder: a session is leased by one of them at a time.
"""

import contextlib
import dataclasses
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from checkpoints import session_file
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.reading import LOOKBACK_TOKENS, START, Point
from recurrentgemma.generation.session import turn_ids
from recurrentgemma.state import State
from recurrentgemma.text.chat import Message, chat_format
from recurrentgemma.text.pieces import HeldText, ids_of
from recurrentgemma.text.streaming import tokens_within
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.request import GenerationRequest
from serving.features.adaptation import (
    GO_ON,
    REREAD,
    Adaptation,
    AdaptationDamaged,
    AdaptationInfo,
    Adaptations,
    adapter_file,
    reread,
)
from serving.features.adapters import ServedAdapter
from serving.features.name_locks import NameLocks

ENDING = ".session"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
LEARNING = "/"  # among the locks of names, of which it is none
NONE_LEARNS = "no session learns on this server: have it started with --adapting 1 or more"


class NoSuchSession(UserError):
    """There is no session of this name."""


class SessionExists(UserError):
    """There is a session of this name already."""


class SessionBusy(Exception):
    """Another request goes on with this session."""


class SessionDamaged(UserError):
    """A session's file cannot be gone on with; the others are as they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionInfo:
    """What is known of a session without reading it."""

    name: str
    bytes: int
    used: float  # seconds since the epoch
    busy: bool  # here; of other servers on the same folder nothing is known
    learns: bool


class Sessions:
    """The sessions in a folder, of one model. Any thread may call it.

    most: of them; one more is refused until another is deleted.
    adaptations: of those that learn, in the same folder; None: none may. What they have learned is
      in this process's memory.
    Raises SessionBusy: they learn in another server on this folder.
    """

    def __init__(
        self,
        folder: Path,
        lm: LanguageModel,
        *,
        most: int = 10_000,
        adaptations: Adaptations | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lm, self._most = folder, lm, most
        self.adaptations = adaptations
        self.tokenizer = lm.tokenizer
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._elsewhere = NameLocks(folder / ".locks")
        if adaptations is not None and not self._elsewhere.take(LEARNING):
            raise SessionBusy(
                f"another server has the sessions in {folder} learn, and one at a time may: ask "
                "that one, or start this one without --adapting or with another --sessions"
            )

    def names(self) -> list[str]:
        """Of all sessions, sorted. Files that no request can name are none."""
        named = (
            path.name.removesuffix(ENDING)
            for path in self._folder.glob(f"[!.]*{ENDING}")
            if path.is_file()
        )
        return sorted(name for name in named if NAME.fullmatch(name))

    def info(self, name: str) -> SessionInfo:
        """Raises NoSuchSession, UserError for what is no name."""
        try:
            status = os.stat(self._path(name))
        except FileNotFoundError:
            raise NoSuchSession(f"there is no session {name!r}", field="session") from None
        if not stat.S_ISREG(status.st_mode):
            raise NoSuchSession(f"there is no session {name!r}", field="session")
        return SessionInfo(
            name=name,
            bytes=status.st_size,
            used=status.st_mtime,
            busy=name in self._busy,
            learns=adapter_file(self._folder, name).is_file(),
        )

    def point(self, name: str) -> Point:
        """Where a session stands. Raises NoSuchSession, SessionDamaged."""
        self.info(name)
        try:
            return session_file.read(self._path(name), self._lm, adapted=True)
        except UserError as error:
            raise SessionDamaged(f"session {name!r}: {error}", field="session") from None

    @contextlib.contextmanager
    def lease(self, name: str, *, new: bool = True) -> Iterator["Lease"]:
        """The session of this name for one request, an empty one where there is none and `new`.

        Raises SessionBusy, SessionDamaged, NoSuchSession, and as Adaptations.of; UserError: there
        are too many, or it learns and none may here.
        """
        path = self._path(name)
        with self._alone(name):
            if new and not path.is_file():
                if len(self.names()) >= self._most:
                    raise UserError(
                        f"there are {self._most:,} sessions, which is the most this server keeps: "
                        "delete some",
                        field="session",
                    )
                adapter_file(self._folder, name).unlink(missing_ok=True)  # of one that is no more
                yield Lease(self, name, START)
                return
            point = self.point(name)
            if self.info(name).learns:
                with self._adaptations.of(name, point) as adaptation:
                    yield Lease(self, name, adaptation.before, adaptation)
            else:
                self._check_not_lost(name, point)
                yield Lease(self, name, point)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other request has this session, here or on another server. Raises SessionBusy."""
        with self._lock:
            if name in self._busy:
                raise SessionBusy(f"session {name!r} is answering another request: try again")
            if not self._elsewhere.take(name):
                message = f"session {name!r} is answering a request on another server: try again"
                raise SessionBusy(message)
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)
                self._elsewhere.give_back(name)

    def write(self, name: str, point: Point) -> None:
        """The session stands there now; its file is whole at any time."""
        session_file.write(self._path(name), point, self._lm)

    def create(self, name: str, *, adapt: bool = False) -> None:
        """An empty one, which learns where `adapt`. Raises SessionExists, UserError."""
        self._require_free(name)
        adaptations = self._adaptations if adapt else None
        with self.lease(name) as lease:
            self._require_free(name)  # it may have begun since
            self.write(name, lease.point)
            if adaptations is not None:
                adaptations.turn_on(name, lease.point)

    def fork(self, name: str, new: str) -> None:
        """A copy under another name. Raises NoSuchSession, SessionBusy, SessionDamaged,
        SessionExists."""
        self._require_free(new)
        with self.lease(name, new=False) as lease, self.lease(new) as other:
            self._require_free(new)
            self.write(other.name, lease.point)
            if self.info(name).learns:
                self._adaptations.copy(name, new)

    def _require_free(self, name: str) -> None:
        if self._path(name).exists():
            raise SessionExists(f"there is a session {name!r}: choose another name", field="name")

    def delete(self, name: str) -> None:
        """Raises NoSuchSession, SessionBusy."""
        self.info(name)
        with self._alone(name):
            self._forget_adapter(name)
            self._path(name).unlink(missing_ok=True)

    def adapt(self, name: str) -> None:
        """From here on it learns from what it reads and says, if it does not already. Raises as
        `fork`; UserError: none may here."""
        adaptations = self._adaptations
        with self.lease(name, new=False) as lease:
            if not adaptations.has(name):
                adaptations.turn_on(name, lease.point)

    def adapt_no_more(self, name: str) -> None:
        """It goes on as the base, from its last tokens; what it has learned is forgotten. Raises
        NoSuchSession, SessionBusy, SessionDamaged."""
        with self._alone(name):
            point = self.point(name)
            if point.adapter:
                self.write(name, reread(point))
            self._forget_adapter(name)

    def adaptation(self, name: str) -> AdaptationInfo | None:
        """What is known of a session that learns. Raises AdaptationDamaged, UserError."""
        if self.info(name).learns:
            return self._adaptations.info(name)
        self._check_not_lost(name, self.point(name))
        return None

    @property
    def _adaptations(self) -> Adaptations:
        if self.adaptations is None:
            raise UserError(NONE_LEARNS, field="session")
        return self.adaptations

    def _check_not_lost(self, name: str, point: Point) -> None:
        """Of a session without an adapter. Raises AdaptationDamaged: it had learned one."""
        if point.adapter:
            raise AdaptationDamaged(
                f"session {name!r} has learned, and {adapter_file(self._folder, name).name} is not "
                f"there: put it back, or {GO_ON}",
                field="session",
            )

    def _forget_adapter(self, name: str) -> None:
        if self.adaptations is not None:
            self.adaptations.turn_off(name)
        adapter_file(self._folder, name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{checked_name(name)}{ENDING}"


def checked_name(name: str) -> str:
    """Raises UserError: it is no name of a session."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name[:100]!r} is no name of a session: expected up to 100 letters, digits, and any "
            "of _.- after the first",
            field="session",
        )
    return name


def prompt_after(tokenizer: Tokenizer, point: Point, text: str) -> list[int]:
    """The ids of a text that goes on where a session stands, with what it holds as text."""
    return ids_of(tokenizer, point.held._replace(text=point.held.text + text))


def turn_after(tokenizer: Tokenizer, point: Point, messages: Sequence[Message]) -> list[int]:
    """The ids of messages that come after those of a session, and ask for an answer. Raises
    UserError as `turn_ids` does."""
    before = [{"role": role, "content": content} for role, content in point.messages]
    seen = point.count or point.held.text
    bos_id = tokenizer.bos_id if seen else None
    ids = turn_ids(chat_format(tokenizer), before, messages, bos_id=bos_id)
    return [*ids_of(tokenizer, point.held), *ids]


def held_ids(tokenizer: Tokenizer | None, point: Point) -> list[int]:
    """Of what a session holds as text, which token ids follow."""
    return [] if tokenizer is None else ids_of(tokenizer, point.held)


class Lease:
    """A session while one request goes on with it: from `point`, with `adapter` where it has
    learned one."""

    def __init__(
        self, sessions: Sessions, name: str, point: Point, adaptation: Adaptation | None = None
    ):
        self.name, self.point = name, point
        self._sessions, self._adaptation = sessions, adaptation

    @property
    def adapter(self) -> ServedAdapter | None:
        return None if self._adaptation is None else self._adaptation.served

    def answered(
        self,
        request: GenerationRequest,
        state: State,
        tokens: Sequence[int],
        *,
        text: str | None = None,
        messages: Sequence[tuple[str, str]] = (),
    ) -> None:
        """The session has read the request's prompt, and what was answered.

        state: of the last event. tokens: of the answer, without one that ended it. text: where a
        stop string has cut it, what was told, which may end with a piece of a token. messages: of
        the chat so far, this turn included.
        """
        prompt = [int(id) for id in request.prompt]
        tokenizer, held = self._sessions.tokenizer, ""
        if text is not None and tokenizer is not None:
            context = (*self.point.context, *prompt)[-LOOKBACK_TOKENS:]
            count, held = tokens_within(tokenizer, context, tokens, text)
            tokens = tokens[:count]
        added = (*prompt, *tokens)
        self.point = Point(
            state=state,
            unread=(prompt[-1], *tokens),
            count=self.point.count + len(added),
            context=(*self.point.context, *added)[-REREAD:],
            held=HeldText(held, None),
            messages=tuple(messages),
            adapter="" if self.adapter is None else self.adapter.version,
        )
        if self._adaptation is None:
            self._sessions.write(self.name, self.point)
        else:
            self._learn(self._adaptation, added)

    def _learn(self, adaptation: Adaptation, added: Sequence[int]) -> None:
        adaptation.spoiled = True
        adaptation.learn(added)
        if self.point.adapter != adaptation.version:
            self.point = reread(self.point, adaptation.version)
        self._sessions.write(self.name, self.point)
        adaptation.save()
        adaptation.spoiled = False
