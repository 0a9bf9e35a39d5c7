# SPDX-License-Identifier: Apache-2.0
"""Many sequences in one batch of states: submit, step, cancel. Synchronous, and no HTTP.

Continuous batching: the slots of a fixed batch are decoded together. A request waits for a free
slot; its prompt is read into a state of its own, chunk by chunk while the others go on, and the
state is put into the slot. What a slot held before is gone with that.

A sequence's answer depends on its own request alone, whatever arrives before, after or beside it:
slots share nothing, and each draws from its own seed. It is what `LanguageModel.generate` answers.

B slots, S stop tokens.
"""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import jax
import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import CAPACITY, Decoded, DecodeOptions, DecodeState
from recurrentgemma.generation.draw import sampling_arrays
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.state import State, init_state
from recurrentgemma.text.chat import check_text
from serving.engine.programs import Programs
from serving.engine.prompt_reader import PromptReader, token_scores
from serving.engine.transcript import TokenScore as TokenScore
from serving.engine.transcript import Transcript

# A step reads prompts for about this long, and then decodes for about this long: what arrives
# meanwhile waits no longer, and neither of the two starves the other.
BLOCK_SECONDS = 0.04
MAX_STEPS = min(32, CAPACITY)  # of one dispatch; a stop string is looked for after each


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One sequence to complete."""

    prompt: tuple[int, ...]
    sampling: Sampling  # max_tokens of 0 only reads the prompt
    logprobs: int | None = None  # how many of the likeliest tokens to report beside each token
    prompt_logprobs: bool = False  # report the prompt's tokens too, in the first event


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """What one step added to one sequence. The last event of a sequence has a finish_reason."""

    request_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()  # a stop token too, but nothing of a stop string
    scores: tuple[TokenScore, ...] = ()  # of these tokens, if asked for
    prompt_scores: tuple[TokenScore, ...] = ()
    num_generated: int = 0  # so far, with the tokens that ended the answer
    finish_reason: Literal["stop", "length"] | None = None


@dataclasses.dataclass(kw_only=True)
class _Sequence:
    id: int
    request: GenerationRequest
    transcript: Transcript
    num_generated: int = 0


class Engine:
    """A language model with `slots` sequences in flight. One thread at a time may call it.

    Raises ValueError for less than one slot.
    """

    def __init__(self, lm: LanguageModel, *, slots: int = 8):
        if slots < 1:
            raise UserError(f"slots is {slots}: expected at least 1")
        self.lm = lm
        self.slots = slots
        self.vocab_size = lm.tokenizer.vocab_size if lm.tokenizer else lm.config.vocab_size
        self.token_name = lru_cache(maxsize=None)(self._token_name)
        self._programs = Programs(lm, vocab_size=self.vocab_size)
        self._ids = itertools.count()
        self._waiting: deque[_Sequence] = deque()
        self._reading: tuple[_Sequence, PromptReader] | None = None
        self._running: list[_Sequence | None] = [None] * slots
        self._steps = 1
        # Everything about the slots but their state is the host's, and small.
        self._state = init_state(lm.config, slots)
        self._token_B = np.zeros(slots, np.int32)
        self._count_B = np.zeros(slots, np.int32)
        self._done_B = np.ones(slots, np.bool_)
        stop_ids = lm.tokenizer.stop_ids if lm.tokenizer else ()
        self._options = DecodeOptions(
            sampling_arrays([Sampling(seed=0)] * slots),
            np.array([stop_ids or (-1,)] * slots, np.int32),
            np.ones(slots, np.int32),
        )

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._waiting or self._reading or self.running)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return sum(sequence is not None for sequence in self._running)

    def check(self, request: GenerationRequest) -> None:
        """Raise ValueError for a request that cannot be answered. Any thread may call it."""
        if not request.prompt:
            raise UserError("the prompt is empty: give at least one token", field="prompt")
        for token in request.prompt:
            if not 0 <= token < self.vocab_size:
                raise UserError(
                    f"token {token} is outside the vocabulary of {self.vocab_size} "
                    f"(ids 0 to {self.vocab_size - 1})",
                    field="prompt",
                )
        most = request.sampling.max_tokens
        config, needed = self.lm.config, len(request.prompt) + max(most - 1, 0)
        if "global_attention" in config.block_types and needed > config.context_length:
            raise UserError(
                f"a prompt of {len(request.prompt)} tokens and max_tokens {most} "
                f"need {needed} tokens of context, and this model's global attention holds "
                f"context_length={config.context_length}: shorten them",
                field="prompt",
            )
        if request.sampling.stop and self.lm.tokenizer is None:
            raise UserError("a stop string needs a tokenizer, and this checkpoint has none")
        top = self._programs.top
        if request.logprobs is not None and not 0 <= request.logprobs <= top:
            raise UserError(f"logprobs is {request.logprobs}: expected 0 to {top}")

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request and return its id. Raises ValueError as `check` does."""
        self.check(request)
        transcript = Transcript(
            self.lm.tokenizer,
            request.prompt,
            stop=request.sampling.stop,
            token_by_token=request.logprobs is not None,
        )
        sequence = _Sequence(id=next(self._ids), request=request, transcript=transcript)
        self._waiting.append(sequence)
        return sequence.id

    def cancel(self, id: int) -> None:
        """Forget a request wherever it is; there will be no more events of it.

        Raises ValueError for one that is not here, or is finished.
        """
        for slot, sequence in enumerate(self._running):
            if sequence is not None and sequence.id == id:
                return self._free(slot)
        if self._reading is not None and self._reading[0].id == id:
            self._reading = None
            return None
        for sequence in self._waiting:
            if sequence.id == id:
                return self._waiting.remove(sequence)
        raise UserError(f"there is no request {id}: it has ended, or never was")

    def step(self) -> list[Event]:
        """Read prompts for a while, decode for a while, and tell what came of it."""
        events: list[Event] = []
        self._read_prompts(events)
        if self.running:
            self._decode(events)
        return events

    def warm_up(self) -> None:
        """Compile all that any request can need."""
        self._programs.warm_up(
            lambda: self._decode_state(init_state(self.lm.config, self.slots)), self._options
        )

    def encode(self, text: str) -> list[int]:
        """A prompt's tokens. Any thread may call it. ValueError: no tokenizer, or no text."""
        if self.lm.tokenizer is None:
            message = "this checkpoint has no tokenizer: send the prompt as token ids"
            raise UserError(message, field="prompt")
        check_text(text)
        return self.lm.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, "" without a tokenizer. Any thread may call it."""
        return "" if self.lm.tokenizer is None else self.lm.tokenizer.decode(ids)

    def _token_name(self, id: int) -> str:
        """A token as text inside of a sentence; `token_id:N` where it is no text of its own."""
        tokenizer = self.lm.tokenizer
        if tokenizer is not None and id < tokenizer.vocab_size:
            before = tokenizer.encode("a", bos=False)  # or a space at the beginning would be lost
            name = tokenizer.decode([*before, id]).removeprefix(tokenizer.decode(before))
            if name and "\ufffd" not in name:
                return name
        return f"token_id:{id}"

    def _decode_state(self, state: State) -> DecodeState:
        return DecodeState(state, self._token_B, self._count_B, self._done_B)  # type: ignore[arg-type]

    def _read_prompts(self, events: list[Event]) -> None:
        began = time.monotonic()
        while (self._reading or self._waiting) and None in self._running:
            if self._reading is None:
                sequence = self._waiting.popleft()
                scored = sequence.request.prompt_logprobs
                reader = PromptReader(self._programs, sequence.request.prompt, scored=scored)
                self._reading = (sequence, reader)
            sequence, reader = self._reading
            if not reader.finished:
                reader.advance()
            if reader.finished:
                self._reading = None
                self._begin(sequence, reader, events)
            if time.monotonic() - began > BLOCK_SECONDS:
                return

    def _begin(self, sequence: _Sequence, reader: PromptReader, events: list[Event]) -> None:
        """Put a sequence whose prompt is read into a free slot."""
        request = sequence.request
        if request.prompt_logprobs:
            transcript = Transcript(self.lm.tokenizer, (), token_by_token=True)
            scores = [*transcript.push(reader.scores)[2], *transcript.finish()[1]]
            scores = [_shortened(score, request) for score in scores]
            events.append(Event(request_id=sequence.id, prompt_scores=tuple(scores)))
        if request.sampling.max_tokens == 0:
            events.append(Event(request_id=sequence.id, finish_reason="length"))
            return
        slot = self._running.index(None)
        self._state = self._programs.insert(self._state, slot, reader.state)
        self._running[slot] = sequence
        self._token_B[slot] = request.prompt[-1]
        self._count_B[slot] = 0
        self._done_B[slot] = False
        self._options.max_tokens_B[slot] = request.sampling.max_tokens
        for all_B, one_1 in zip(
            self._options.sampling, sampling_arrays([request.sampling]), strict=True
        ):
            all_B[slot] = one_1[0]

    def _free(self, slot: int) -> None:
        self._running[slot] = None
        self._done_B[slot] = True
        self._options.sampling.temperature_B[slot] = 0  # a slot that samples makes all pay for it

    def _decode(self, events: list[Event]) -> None:
        scored = any(s is not None and s.request.logprobs is not None for s in self._running)
        began = time.monotonic()
        decode_state, decoded = self._programs.decode(
            self._decode_state(self._state), self._options, self._steps, scored=scored
        )
        self._state = decode_state.state
        found, token_B, count_B, done_B = jax.device_get((decoded, *decode_state[1:]))
        self._token_B, self._count_B = np.array(token_B), np.array(count_B)
        self._done_B = np.array(done_B)
        seconds = max(time.monotonic() - began, 1e-6) / max(1, int(found.taken_B.max()))
        self._steps = max(1, min(2 * self._steps, MAX_STEPS, int(BLOCK_SECONDS / seconds)))
        for slot, sequence in enumerate(self._running):
            if sequence is not None:
                self._take(slot, sequence, found, events)

    def _take(self, slot: int, sequence: _Sequence, found: Decoded, events: list[Event]) -> None:
        """Turn a slot's new tokens into an event; free the slot when its sequence has ended."""
        taken, done = int(found.taken_B[slot]), bool(self._done_B[slot])
        tokens_T = found.tokens_BC[slot, :taken]
        ended = done and bool(np.isin(tokens_T[-1], self._options.stop_BS[slot]))
        request, transcript = sequence.request, sequence.transcript
        if request.logprobs is None:
            scores = [TokenScore(token_id=id, logprob=None, top=()) for id in tokens_T.tolist()]
        else:
            of_slot = (found.logp_BC, found.top_logp_BCN, found.top_tokens_BCN)
            scores = token_scores(tokens_T, *(array[slot] for array in of_slot))
        pushed, text, released = transcript.push(scores[: taken - ended])
        sequence.num_generated += pushed
        if done and not transcript.stopped:
            rest, more = transcript.finish()
            text, released = text + rest, released + more
            if ended and not transcript.stopped:
                sequence.num_generated += 1
                released.append(dataclasses.replace(scores[-1], offset=transcript.length))
        reason = None
        if ended or transcript.stopped:
            reason = "stop"
        elif done:
            reason = "length"
        if reason is not None:
            self._free(slot)
        elif not (text or released):
            return
        scores = [_shortened(s, request) for s in released if request.logprobs is not None]
        events.append(
            Event(
                request_id=sequence.id,
                text=text,
                token_ids=tuple(score.token_id for score in released),
                scores=tuple(scores),
                num_generated=sequence.num_generated,
                finish_reason=reason,
            )
        )


def _shortened(score: TokenScore, request: GenerationRequest) -> TokenScore:
    """Only as many of the likeliest tokens as were asked for."""
    return dataclasses.replace(score, top=score.top[: request.logprobs or 0])
