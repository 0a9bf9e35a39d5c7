# SPDX-License-Identifier: Apache-2.0
"""Sessions that learn from what they read: dynamic evaluation (eval/dynamic) of a low-rank adapter
each, beside all other sequences of the engine.

    adapting = AdaptingSessions(lm, engine.adapters, most=2)
    adapting.turn_on("alice")
    request = adapting.request("alice", ids, sampling)
    ...
    adapting.answered("alice", ids, tokens)     # scored, learned: a new version, if a segment ended

A session's adapter stands in a place of the bank, as any adapter: so it changes no bit of anybody
else. When it has learned it is another version in another place, and no state that was computed
with the one before is used: the next turn reads the last `reread` tokens once more. What was before
them has left its trace in the adapter. Memory is bounded by `most` sessions, each with an adapter,
its optimizer, a state and so many tokens; time by a segment a call, one session at a time.
"""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import GenerationRequest
from serving.features.adapters import Adapters, ServedAdapter

REREAD = 1024
PLACES_EACH = 2  # of the bank: the version that answers, and the one that was learned meanwhile


@dataclasses.dataclass
class AdaptingSession:
    """One that learns. version: how often it has; 0 is the base."""

    online: OnlineAdapter
    served: ServedAdapter | None = None
    version: int = 0
    context: list[int] = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class AdaptingSessions:
    """At most `most` of them. Any thread may call it.

    Raises UserError: the bank is too small for what they learn.
    """

    def __init__(
        self,
        lm: LanguageModel,
        adapters: Adapters,
        *,
        most: int,
        choices: DynamicConfig | None = None,
        reread: int = REREAD,
    ):
        self.choices = choices or DynamicConfig(parameters="lora")
        if self.choices.parameters != "lora":
            raise UserError("a session adapts a low-rank adapter: parameters=lora")
        if adapters.bank.rank < self.choices.lora.rank:
            raise UserError(
                f"adapters of rank {self.choices.lora.rank} are learned, and the server has places "
                f"for {adapters.bank.rank}: raise --adapter-rank"
            )
        self._lm, self._adapters, self._most, self._reread = lm, adapters, most, reread
        self._sessions: dict[str, AdaptingSession] = {}
        self._lock = threading.Lock()
        self._learning = threading.Lock()  # one at a time: what others wait for is bounded

    @property
    def names(self) -> list[str]:
        return list(self._sessions)

    def turn_on(self, name: str) -> None:
        """From here on it learns. Raises UserError: it does; there are as many as may be."""
        with self._lock:
            if name in self._sessions:
                raise UserError(f"session {name!r} adapts already", field="session")
            if len(self._sessions) >= self._most:
                raise UserError(
                    f"{self._most} sessions adapt, which is the most this server lets: turn one "
                    "off, or have it started with more --adapting",
                    field="session",
                )
            self._sessions[name] = AdaptingSession(OnlineAdapter(self._lm, self.choices))

    def turn_off(self, name: str) -> None:
        """It is forgotten, with all that it has learned."""
        with self._lock:
            self._get(name)
            del self._sessions[name]

    def version(self, name: str) -> int:
        """How often it has learned."""
        return self._get(name).version

    def request(
        self, name: str, ids: Sequence[int], sampling: Sampling, *, logprobs: int | None = None
    ) -> GenerationRequest:
        """What goes on with the session by these tokens, with the version of now."""
        session = self._get(name)
        with session.lock:
            return GenerationRequest(
                prompt=(*session.context, *ids),
                sampling=sampling,
                logprobs=logprobs,
                adapter=session.served,
            )

    def answered(self, name: str, ids: Sequence[int], tokens: Sequence[int]) -> int:
        """The session has read `ids` and said `tokens`, and learns from both where they complete a
        segment. Returns its version.

        Raises UserError: a loss was not finite; the session then stays as it was, and learns no
        more.
        """
        session = self._get(name)
        with session.lock, self._learning:
            session.online.feed([*map(int, ids), *map(int, tokens)])
            session.context = [*session.context, *map(int, ids), *map(int, tokens)][-self._reread :]
            if session.online.version != session.version:
                session.served = self._adapters.place(
                    f"session {name}", self._learned(session), scale=self.choices.lora.scale
                )
                session.version = session.online.version
            return session.version

    def _learned(self, session: AdaptingSession) -> dict[str, np.ndarray]:
        adapted = session.online._learner.adapted(0)
        return {name: np.asarray(array) for name, array in adapted.items()}

    def _get(self, name: str) -> AdaptingSession:
        session = self._sessions.get(name)
        if session is None:
            raise UserError(f"session {name!r} does not adapt: turn it on first", field="session")
        return session
