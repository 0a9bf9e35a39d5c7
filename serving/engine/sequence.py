# SPDX-License-Identifier: Apache-2.0
"""One request on its way through the engine: from the tokens that its slot generates to events."""

import time
from array import array
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.state import State
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.request import Event, GenerationRequest, Times, TokenScore
from serving.engine.transcript import Transcript


class LiveSequence:
    """What a request has generated so far, and what of it has been told."""

    def __init__(self, id: int, request: GenerationRequest, tokenizer: Tokenizer | None):
        self.id = id
        self.request = request
        self.tokens = array("i")  # all that were generated
        self.cached_tokens = 0
        self.state: State | None = (
            None  # after the prompt but its last token, where it is asked for
        )
        self.submitted = self.admitted = self.read = time.monotonic()
        self._allowed = None if request.constraint is None else request.constraint()
        self._num_generated = 0
        self._tokenizer = tokenizer
        own = tokenizer.stop_ids if tokenizer and not request.sampling.ignore_eos else ()
        self._stop_ids = frozenset((*own, *request.sampling.stop_token_ids))
        context = request.prompt
        if request.before is not None:
            context = [*request.before.context, *request.prompt]
        self._transcript = Transcript(
            tokenizer,
            context,
            stop=request.sampling.stop,
            token_by_token=request.logprobs is not None,
        )

    def prompt_read(self, scores: Sequence[TokenScore]) -> Event | None:
        """The event of a prompt that is read, if there is something to tell.

        scores: of the prompt's tokens, where the request asks for them.
        """
        told: tuple[TokenScore, ...] = ()
        if self.request.prompt_logprobs:
            transcript = Transcript(self._tokenizer, (), token_by_token=True)
            told = self._told([*transcript.push(scores)[2], *transcript.finish()[1]])
        reason = None if self.request.sampling.max_tokens else "length"
        if reason is None and not told:
            return None
        return self._event(prompt_scores=told, finish_reason=reason)

    @property
    def tokens_left(self) -> int:
        """The most that it will generate yet."""
        return self.request.sampling.max_tokens - len(self.tokens)

    def allowed(self) -> np.ndarray | None:
        """Which tokens may come next, as GenerationRequest.constraint says; None: any."""
        return None if self._allowed is None else self._allowed(self.tokens)

    def failed(self, error: UserError) -> Event:
        """The last event of an answer that is given up."""
        return self._event(finish_reason="length", error=error)

    def push(self, scores: Sequence[TokenScore], *, done: bool) -> Event | None:
        """The event of the tokens that one dispatch has generated, if there is something to tell.

        done: the slot has ended, with a stop token or for its length.
        """
        transcript = self._transcript
        stop_token = done and scores[-1].token_id in self._stop_ids
        self.tokens.extend([score.token_id for score in scores])
        pushed, text, released = transcript.push(scores[: len(scores) - stop_token])
        self._num_generated += pushed
        if done and not transcript.stopped:
            last_text, last_tokens = transcript.finish()
            text, released = text + last_text, released + last_tokens
            if stop_token and not transcript.stopped:
                self._num_generated += 1
                released.append(scores[-1]._replace(offset=transcript.length))
        reason: Literal["stop", "length"] | None = None
        if stop_token or transcript.stopped:
            reason = "stop"
        elif done:
            reason = "length"
        if reason is None and not (text or released):
            return None
        return self._event(
            text=text,
            token_ids=tuple([score.token_id for score in released]),
            scores=self._told(released) if self.request.logprobs is not None else (),
            finish_reason=reason,
        )

    def _event(self, *, finish_reason: Literal["stop", "length"] | None, **told: Any) -> Event:
        times = None
        if finish_reason is not None:
            times = Times(
                submitted=self.submitted,
                admitted=self.admitted,
                read=self.read,
                ended=time.monotonic(),
            )
        return Event(
            request_id=self.id,
            num_generated=self._num_generated,
            cached_tokens=self.cached_tokens,
            finish_reason=finish_reason,
            times=times,
            state=None if finish_reason is None else self.state,
            **told,
        )

    def _told(self, scores: Sequence[TokenScore]) -> tuple[TokenScore, ...]:
        """With only as many of the likeliest tokens as were asked for."""
        top = self.request.logprobs or 0
        return tuple(score._replace(top=score.top[:top]) for score in scores)
