# SPDX-License-Identifier: Apache-2.0
"""OnlineAdapter: a model that learns from text as it arrives.

    adapter = OnlineAdapter(lm, DynamicConfig(parameters="lora"))
    logp = adapter.feed("Call me Ishmael. ")    # of the segments that were completed, and learned
    logp = adapter.flush()                      # of what is left
    adapter.lm.generate(...)                    # with the parameters of now
    adapter.save("ishmael.adapter")
    adapter = OnlineAdapter.load("ishmael.adapter", lm)

It gives the numbers of dynamic_evaluation, whatever the pieces are in which a text comes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from eval.dynamic import adapter_file, segments
from eval.dynamic.config import DynamicConfig
from eval.dynamic.learner import Learner, LossNotFinite
from eval.dynamic.limits import check_document
from eval.dynamic.replay import make_replay
from eval.dynamic.statistics import Statistics
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.reading import LOOKBACK_TOKENS, Point
from recurrentgemma.generation.session import Session
from recurrentgemma.params import Flat
from recurrentgemma.state import State
from recurrentgemma.text import pieces
from recurrentgemma.text.chat import check_text
from recurrentgemma.text.pieces import HeldText


class OnlineAdapter:
    """One stream of text. It holds the adapted parameters, the optimizer's state, the model's state
    and the text that is not a whole segment yet.

    Options as those of dynamic_evaluation. Raises UserError as it.
    """

    def __init__(
        self,
        lm: LanguageModel,
        choices: DynamicConfig | None = None,
        *,
        statistics: Statistics | None = None,
        tx: optax.GradientTransformation | None = None,
        replay_text: Sequence[np.ndarray] | None = None,
    ):
        self.base, self.choices = lm, choices or DynamicConfig()
        self.statistics, self.tx = statistics, tx
        self.note: dict[str, Any] = {}  # its owner's, which the file keeps, as JSON
        self._learner = Learner(lm, self.choices, statistics=statistics, tx=tx)
        self._replay = make_replay(self.choices, replay_text)
        self._now: tuple[int, LanguageModel] | None = None
        self._begin()

    def _begin(self) -> None:
        self._ids = np.zeros(0, np.int32)  # of the document, from token number `_offset` on
        self._offset = self._scored = 0  # pairs of the document that were scored
        self._held = HeldText()

    @property
    def version(self) -> int:
        """How often the parameters have changed."""
        return int(self._learner.streams.version[0])

    @property
    def tokens_scored(self) -> int:
        """Of the document."""
        return self._scored

    @property
    def adapted(self) -> Flat:
        """The adapted parameters of now, by canonical name."""
        return self._learner.adapted(0)

    @property
    def lm(self) -> LanguageModel:
        """A language model with the parameters of now; adapters are added to their weights. It
        stays what it is when the adapter learns on."""
        if self._now is None or self._now[0] != self.version:
            flat = self._learner.flat(0)
            if self.base.config.scan_layers:  # layers of one array have one dtype
                base = self._learner.split.base
                flat = {name: x.astype(base[name].dtype) for name, x in flat.items()}
            self._now = (self.version, self.base.with_params(flat))
        return self._now[1]

    @property
    def state(self) -> State | None:
        """The model's, of the document up to the next segment's overlap; None where nothing was
        read, or each segment begins with an empty one."""
        state = self._learner.streams.state
        if state is None or self._scored <= self.choices.overlap:
            return None
        return jax.tree.map(lambda x: x.copy(), state)

    def session(self) -> Session:
        """A session that stands where the document does, with the parameters of now: it answers,
        and the adapter learns nothing of that. With state reset it has read the overlap."""
        first = max(self._scored - self.choices.overlap, 0) - self._offset
        unread, state = self._ids[first:].tolist(), self.state
        point = Point(
            state=state,
            unread=tuple(unread),
            count=self._offset + len(self._ids),
            context=tuple(unread[-LOOKBACK_TOKENS:]),
            held=self._held,
        )
        return Session(self.lm, point)

    def feed(self, text_or_ids: str | Sequence[int]) -> np.ndarray:
        """Append to the document; score each segment that is whole, and learn from it.

        Returns the log-probabilities of what was scored, in nats, float32: of all tokens but the
        document's first, in their order. A text begins with bos, as lm.score reads it; token ids
        are taken as they are.
        Raises LossNotFinite: the adapter has the last parameters with a finite loss, and learns
        no more until start(). UserError: it has stopped so, or as lm.score.
        """
        self._require_running()
        if isinstance(text_or_ids, str):
            ids = self._certain(text_or_ids)
        else:
            ids = self.base._ids(text_or_ids)
            if ids:
                ids, self._held = [*self._end_text(), *ids], HeldText(before=None)
        return self._append(ids)

    def flush(self) -> np.ndarray:
        """Score what is left, though it is no whole segment, and learn from it. A token ends where
        the text does. Returns as feed."""
        self._require_running()
        logp = [self._append(self._end_text())]
        if (length := len(self._ids) - 1 - self._place()) > 0:
            logp.append(self._advance(length))
        return np.concatenate(logp)

    def start(self) -> np.ndarray:
        """Begin another document; what is left of this one is scored first, and returned as by
        flush. Its parameters are the checkpoint's, or with --no-reset-parameters those of now."""
        stopped = bool(self._learner.streams.stopped[0])
        logp = np.zeros(0, np.float32) if stopped else self.flush()
        if self.choices.learns and self.choices.reset_parameters:
            self._learner.restart(np.array([True]))
            self._now = None  # other parameters of the same version
            if self._replay is not None:
                self._replay.restart()
        self._learner.resume()
        self._begin()
        return logp

    def save(self, path: str | Path) -> None:
        """Write all of it to one file, whole or not at all. An optimizer of optax's and a text to
        replay are no part of it; load takes them again."""
        adapter_file.write(Path(path), self.base, *self._saved())

    @classmethod
    def load(
        cls,
        path: str | Path,
        lm: LanguageModel,
        *,
        tx: optax.GradientTransformation | None = None,
        replay_text: Sequence[np.ndarray] | None = None,
    ) -> "OnlineAdapter":
        """The adapter that `save` wrote, which goes on as it would have.

        Raises UserError: there is none, it is damaged, of another model or tokenizer, or was saved
        with a `tx` and is loaded without, or with another.
        """
        header, arrays = adapter_file.read(Path(path), lm)
        if header["has_tx"] != (tx is not None):
            raise UserError(
                f"{path} was saved {'with' if header['has_tx'] else 'without'} a tx of its own: "
                f"load it {'with the same' if header['has_tx'] else 'without'}"
            )
        statistics = None
        if header["statistics"] is not None:
            mean_square = adapter_file.within(arrays, "statistics.")
            statistics = Statistics(jax.device_put(mean_square), **header["statistics"])
        adapter = cls(
            lm,
            DynamicConfig.from_json(header["choices"]),
            statistics=statistics,
            tx=tx,
            replay_text=replay_text,
        )
        if header.get("templates") != adapter._learner.split.templates_fingerprint:
            raise UserError(
                f"{path} adapts a code of other templates than those in "
                f"{adapter.choices.templates}: bring the old ones back"
            )
        try:
            adapter._learner.restore(adapter_file.within(arrays, "learner."))
        except UserError as error:
            raise UserError(f"{path} cannot be gone on with: {error}") from None
        if adapter._replay is not None:
            adapter._replay.restore(adapter_file.within(arrays, "replay."))
        adapter._ids = arrays["ids"]
        adapter._offset, adapter._scored = header["offset"], header["scored"]
        adapter._held, adapter.note = HeldText(*header["held"]), header["note"]
        return adapter

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header: dict[str, Any] = {
            "choices": self.choices.to_json(),
            "has_tx": self.tx is not None,
            "version": self.version,
            "offset": self._offset,
            "scored": self._scored,
            "held": list(self._held),
            "note": self.note,
            "statistics": None,
            "templates": self._learner.split.templates_fingerprint,
        }
        arrays = {f"learner.{name}": x for name, x in self._learner.arrays().items()}
        arrays["ids"] = self._ids
        if self._replay is not None:
            arrays |= {f"replay.{name}": x for name, x in self._replay.arrays().items()}
        if self.statistics is not None:
            names = ("segments", "segment_length", "parameters", "weights")
            header["statistics"] = {name: getattr(self.statistics, name) for name in names}
            for name in self._learner.anchor.pretrained:
                array = self.statistics.mean_square[name]
                arrays[f"statistics.{name}"] = np.asarray(array)
        return header, arrays

    def _require_running(self) -> None:
        if bool(self._learner.streams.stopped[0]):
            raise UserError(
                "this adapter has stopped, because a loss was not finite; it holds the parameters "
                "from before that: save them, or begin another document with start()"
            )

    def _certain(self, text: str) -> list[int]:
        """The ids that the document's text makes certain; the rest of it is held back."""
        tokenizer = self.base._text_tokenizer("read text", "feed token ids")
        check_text(text)
        self._held = self._held._replace(text=self._held.text + text)
        if len(self._held.text) <= pieces.CUT_MARGIN:
            return []
        ids, self._held = pieces.certain(tokenizer, self._held)
        return ids

    def _end_text(self) -> list[int]:
        """The ids of the text held back, which ends here."""
        if not self._held.text:
            return []
        tokenizer = self.base._text_tokenizer("read text", "feed token ids")
        ids, self._held = pieces.ids_of(tokenizer, self._held), HeldText(before=None)
        return ids

    def _append(self, ids: Sequence[int]) -> np.ndarray:
        check_document(
            self.base, self.choices, self._offset + len(self._ids) + len(ids), "this document"
        )
        self._ids = np.concatenate([self._ids, np.asarray(ids, np.int32)])
        logp, size = [np.zeros(0, np.float32)], self.choices.segment_length
        while len(self._ids) - 1 - self._place() >= size:
            logp.append(self._advance(size))
        return np.concatenate(logp)

    def _place(self) -> int:
        """Of the next segment's first token, in the ids that are held."""
        return self._scored - self._offset

    def _advance(self, length: int) -> np.ndarray:
        """Score a segment and learn from it."""
        place, replayed = self._place(), None
        segment = segments.cut(self.choices, self._ids, place, length, offset=self._offset)
        if self._replay is not None:
            rows = self._replay.next(self._ids[place : place + length + 1])
            replayed = segments.stacked([segments.replayed(self.choices, rows)])
        scored = self._learner.step(segments.stacked([segment]), replayed)
        if bool(scored.stopped_S[0]):
            raise LossNotFinite(
                f"the loss is not finite from token {self._scored + 1:,} on; the adapter has the "
                f"parameters from before that, version {self.version}, and has stopped: lower "
                "optimizer.learning_rate, or set optimizer.clip_norm"
            )
        self._scored += length
        drop = max(self._scored - self.choices.overlap - self._offset, 0)
        self._ids, self._offset = self._ids[drop:], self._offset + drop
        return np.asarray(scored.logp_SL)[0, :length]
