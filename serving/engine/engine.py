# SPDX-License-Identifier: Apache-2.0
"""Many sequences in one batch of states: submit, step, cancel. Synchronous, and no HTTP.

Continuous batching: the slots of a fixed batch are decoded together. A request waits for a free
slot; its prompt is read into a state of its own, chunk by chunk, while other prompts are read and
other sequences go on; then the state is put into the slot, or into several, where several answers
to one prompt are asked for. There are never more states of prompts than slots, so at most `slots`
states beside those of the batch.

A sequence's answer depends on its own request alone, bit for bit, whatever arrives before, after or
beside it and whatever the cache holds: slots share nothing, each draws from its own seed, chunks
are cut by the prompt's length (chunks.py), every program has one shape, and a state is reused only
where it is what would have been computed. It is what `LanguageModel.generate` answers.
"""

import itertools
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import CAPACITY
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.state import State
from recurrentgemma.text.chat import check_text
from serving.engine.chunks import GRID, kept_boundaries, last_boundary
from serving.engine.programs import Programs
from serving.engine.prompt import Prompt
from serving.engine.prompt_reader import PromptReader, advance
from serving.engine.prompt_turns import PromptTurns
from serving.engine.request import Event, GenerationRequest
from serving.engine.sequence import LiveSequence
from serving.engine.slots import Slots
from serving.features.prefix_cache import Key, PrefixCache, prefix_keys

# A step decodes for about this long, and reads prompts for no longer than it decodes: what arrives
# meanwhile waits no longer, and what is decoded takes at most twice as long as alone.
BLOCK_SECONDS = 0.04
MAX_STEPS = min(32, CAPACITY)  # of one dispatch; a stop string is looked for after each


class Engine:
    """A language model with `slots` sequences in flight. One thread at a time may call it.

    max_prompt: most tokens of a prompt; None for no limit.
    constrained: whether a request may say which tokens are allowed (GenerationRequest.allowed) and
      change logits (Sampling.changes_logits).
    rows: prompts that one call of the device reads. More is faster where many come, and slower for
      one that is alone, for a program's shape does not depend on who is there.
    cache: keeps states of prompts' beginnings. model: the name of this model there.
    Raises UserError for less than one slot or row.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        slots: int = 8,
        max_prompt: int | None = None,
        constrained: bool = False,
        rows: int = 1,
        cache: PrefixCache | None = None,
        model: str = "",
    ):
        for name, value in (("slots", slots), ("rows", rows)):
            if value < 1:
                raise UserError(f"{name} is {value}: expected at least 1", field=name)
        self.lm = lm
        self.slots = slots
        self.max_prompt = max_prompt
        self.constrained = constrained
        self.cache = cache
        self.vocab_size = lm.tokenizer.vocab_size if lm.tokenizer else lm.config.vocab_size
        self.token_name = lru_cache(maxsize=None)(self._token_name)
        self._model = model
        self._programs = Programs(lm, vocab_size=self.vocab_size, rows=rows)
        self._ids = itertools.count()
        self._waiting: deque[Prompt] = deque()
        self._reading = PromptTurns()
        self._read: deque[tuple[Prompt, State]] = deque()  # some of their sequences wait for a slot
        self._later: deque[Prompt] = deque()  # to be read for the cache, when nobody waits
        self._running: list[LiveSequence | None] = [None] * slots
        stop_ids = lm.tokenizer.stop_ids if lm.tokenizer else ()
        self._slots = Slots(
            self._programs, slots, stop_ids=tuple(stop_ids), constrained=constrained
        )
        self._steps = 1
        self._reading_seconds = 0.0  # for which prompts may be read before the next block of tokens

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(
            self._waiting or self._reading or self._read or self._later or self.running
        )

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return sum(sequence is not None for sequence in self._running)

    def check(self, request: GenerationRequest) -> None:
        """Raise UserError for a request that cannot be answered. Any thread may call it."""
        self.tokens(request.prompt)
        length, most = len(request.prompt), request.sampling.max_tokens
        config, needed = self.lm.config, length + max(most - 1, 0)
        if "global_attention" in config.block_types and needed > config.context_length:
            raise UserError(
                f"a prompt of {length} tokens and max_tokens {most} need {needed} tokens of "
                "context, and this model's global attention holds "
                f"context_length={config.context_length}: shorten them",
                field="prompt" if length > config.context_length else "max_tokens",
            )
        if request.sampling.stop and self.lm.tokenizer is None:
            message = "a stop string needs a tokenizer, and this checkpoint has none: leave it out"
            raise UserError(message, field="stop")
        constrains = request.allowed is not None or request.sampling.changes_logits
        if constrains and not self.constrained:
            raise ValueError("a request constrains its answer: make the Engine with constrained=")
        for field in ("logit_bias", "stop_token_ids"):
            for entry in getattr(request.sampling, field):
                id = entry[0] if field == "logit_bias" else entry
                if id >= self.vocab_size:
                    raise UserError(f"{field}: {self._outside(id)}", field=field)
        top = self._programs.top
        if request.logprobs is not None and not 0 <= request.logprobs <= top:
            message = f"logprobs is {request.logprobs}: expected 0 to {top}"
            raise UserError(message, field="logprobs")

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request and return its id. Raises UserError as `check` does."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[int]:
        """Queue requests that have one prompt, which is read once; returns their ids.

        Raises UserError as `check` does, and then has queued none.
        """
        for request in requests:
            self.check(request)
        first = self.tokens(requests[0].prompt)
        assert all(np.array_equal(first, request.prompt) for request in requests[1:])
        tokenizer = self.lm.tokenizer
        sequences = [LiveSequence(next(self._ids), request, tokenizer) for request in requests]
        self._waiting.append(Prompt(first, sequences))
        return [sequence.id for sequence in sequences]

    def cancel(self, id: int) -> None:
        """Forget a request wherever it is; there will be no more events of it.

        Raises ValueError for one that is not here, or is finished.
        """
        for slot, sequence in enumerate(self._running):
            if sequence is not None and sequence.id == id:
                return self._free(slot)
        for prompt in (*self._reading, *self._waiting, *(prompt for prompt, _ in self._read)):
            for sequence in prompt.sequences:
                if sequence.id == id:
                    prompt.sequences.remove(sequence)
                    return self._forget_unless_waited_for(prompt)
        raise ValueError(f"there is no request {id}: it has ended, or never was")

    def step(self) -> list[Event]:
        """Read prompts for a while, decode for a while, and tell what came of it."""
        events: list[Event] = []
        self._read_prompts(events)
        if self.running:
            self._decode(events)
        return events

    def warm_up(self) -> None:
        """Compile all that any request can need, and see that its memory is there."""
        self._slots.warm_up()

    def tokens(self, prompt: str | Sequence[int] | np.ndarray) -> np.ndarray:
        """A prompt as tokens, int32 [T]. Any thread may call it.

        Raises UserError: no tokenizer for a text, no text, no token, too many, one outside of the
        vocabulary.
        """
        ids = np.asarray(self._encode(prompt) if isinstance(prompt, str) else prompt)
        if not len(ids):
            raise UserError("the prompt is empty: give at least one token", field="prompt")
        if self.max_prompt is not None and len(ids) > self.max_prompt:
            message = (
                f"the prompt has {len(ids)} tokens, and at most {self.max_prompt} are taken: "
                "shorten it, or have the server started with a larger --max-prompt"
            )
            raise UserError(message, field="prompt")
        outside = next((id for id in (ids.min(), ids.max()) if not 0 <= id < self.vocab_size), None)
        if outside is not None:
            raise UserError(self._outside(outside), field="prompt")
        return ids.astype(np.int32, copy=False)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, "" without a tokenizer. Any thread may call it."""
        return "" if self.lm.tokenizer is None else self.lm.tokenizer.decode(list(map(int, ids)))

    def _outside(self, id: int) -> str:
        return (
            f"token {id} is outside the vocabulary of {self.vocab_size} "
            f"(ids 0 to {self.vocab_size - 1})"
        )

    def _encode(self, text: str) -> list[int]:
        if self.lm.tokenizer is None:
            message = "this checkpoint has no tokenizer: send the prompt as token ids"
            raise UserError(message, field="prompt")
        check_text(text)
        return self.lm.tokenizer.encode(text)

    def _token_name(self, id: int) -> str:
        """A token as text inside of a sentence; `token_id:N` where it is no text of its own."""
        tokenizer = self.lm.tokenizer
        if tokenizer is not None and id < tokenizer.vocab_size:
            before = tokenizer.encode("a", bos=False)  # or a space at the beginning would be lost
            name = tokenizer.decode([*before, id]).removeprefix(tokenizer.decode(before))
            if name and "\ufffd" not in name:
                return name
        return f"token_id:{id}"

    def _read_prompts(self, events: list[Event]) -> None:
        """As long as decoding took, or without any for BLOCK_SECONDS; whoever waits comes first,
        then the cache."""
        if not self.running:
            self._reading_seconds = BLOCK_SECONDS
        while self._admit(events):
            if self.running and self._reading_seconds <= 0:
                return
            began = time.monotonic()
            readings = self._reading.next(self._programs.rows) if self._reading else [self._later[0]]
            advance(self._programs, [prompt.reader for prompt in readings])
            for prompt in readings:
                if not prompt.tokens_left:
                    self._begin(prompt, events)
            self._reading_seconds -= time.monotonic() - began
            if not self.running and self._reading_seconds <= 0:
                return

    def _admit(self, events: list[Event]) -> bool:
        """Begin to read what waits, as far as slots are free; whether there is something to read.
        """
        self._place()
        while self._waiting and self._states < self.slots:
            prompt = self._waiting.popleft()
            now = time.monotonic()
            reader = self._open(prompt)
            for sequence in prompt.sequences:
                sequence.admitted, sequence.cached_tokens = now, reader.start
            self._reading.add(prompt)
            if reader.finished:
                self._begin(prompt, events)
        while not self._reading and self._later and self._later[0].reader is None:
            if self._open(self._later[0]).finished:
                self._later.popleft()
        return bool(self._reading or self._later)

    @property
    def _states(self) -> int:
        """Of prompts and in slots."""
        return self.running + len(self._reading) + len(self._read)

    def _open(self, prompt: Prompt) -> PromptReader:
        """Begin to read a prompt, after what the cache has of it."""
        keys: list[Key] = []
        start, state = 0, None
        if self.cache is not None:
            keys = prefix_keys(self._model, prompt.tokens_T[:-1], GRID)
            if not prompt.scored:
                count, state = self.cache.longest(keys)
                start = count * GRID
            if prompt.waited_for:
                self.cache.counts.queried += len(prompt.tokens_T)
                self.cache.counts.hit += start
        prompt.reader = PromptReader(
            prompt.tokens_T,
            self._programs.empty if state is None else state,
            start=start,
            scored=prompt.scored,
            at_boundary=partial(self._keep, keys, kept_boundaries(len(prompt.tokens_T) - 1)),
        )
        return prompt.reader

    def _keep(self, keys: list[Key], boundaries: set[int], position: int, state: State) -> None:
        if self.cache is not None and position in boundaries:
            self.cache.put(keys[position // GRID - 1], state)

    def _begin(self, prompt: Prompt, events: list[Event]) -> None:
        """What is read goes into free slots, or waits for them."""
        assert prompt.reader is not None
        if prompt in self._later:
            return self._later.remove(prompt)
        self._reading.remove(prompt)
        now = time.monotonic()
        for sequence in list(prompt.sequences):
            sequence.read = now
            event = sequence.prompt_read(prompt.reader.scores)
            if event is not None:
                events.append(event)
                if event.finish_reason is not None:
                    prompt.sequences.remove(sequence)
        if prompt.waited_for:
            self._read.append((prompt, prompt.reader.state))
        self._place()

    def _place(self) -> None:
        """Put sequences whose prompts are read into free slots."""
        while self._read and None in self._running:
            prompt, state = self._read[0]
            sequence = prompt.sequences.pop(0)
            slot = self._running.index(None)
            self._slots.put(slot, state, sequence.request.prompt, sequence.request.sampling)
            self._running[slot] = sequence
            if not prompt.sequences:
                self._read.popleft()

    def _forget_unless_waited_for(self, prompt: Prompt) -> None:
        if prompt.waited_for:
            return
        if prompt in self._waiting:
            self._waiting.remove(prompt)
        self._reading.remove(prompt)
        self._read = deque(entry for entry in self._read if entry[0] is not prompt)

    def _free(self, slot: int) -> None:
        self._running[slot] = None
        self._slots.clear(slot)

    def _decode(self, events: list[Event]) -> None:
        running = [(i, s) for i, s in enumerate(self._running) if s is not None]
        scored = any(s.request.logprobs is not None for _, s in running)
        began = time.monotonic()
        masks = {slot: sequence.allowed() for slot, sequence in running}
        allowed = {slot: mask_M for slot, mask_M in masks.items() if mask_M is not None}
        steps = self._steps
        if any(s.request.allowed for _, s in running):
            steps = 1
        elif self._reading or self._waiting:
            steps = min(steps, 4)  # somebody waits
        slots = self._slots.decode(steps, scored=scored, allowed=allowed)
        taken = max(len(slot.scores) for slot in slots)
        took = time.monotonic() - began
        seconds = max(took, 1e-6) / max(1, taken)
        self._steps = max(1, min(2 * steps, MAX_STEPS, int(BLOCK_SECONDS / seconds)))
        self._reading_seconds = min(self._reading_seconds, 0.0) + took
        for slot, sequence in running:
            event = sequence.push(slots[slot].scores, done=slots[slot].done)
            if event is not None:
                events.append(event)
                if event.finish_reason is not None:
                    self._free(slot)
                    self._read_later(sequence)

    def _read_later(self, sequence: LiveSequence) -> None:
        """What a chat's next turn begins with: prompt and answer, read in chunks of the grid. The
        state in the slot was computed a token at a time, which is not the same to the last bit."""
        if self.cache is None:
            return
        prompt_T = np.asarray(sequence.request.prompt, np.int32)
        tokens_T = np.concatenate([prompt_T, np.frombuffer(sequence.tokens, np.int32)])
        end = last_boundary(len(tokens_T) - 1)
        if end <= len(prompt_T) - 1:
            return  # the prompt's own reading came as far
        self._later.append(Prompt(tokens_T[: end + 1], []))
        if len(self._later) > self.slots:
            self._later.popleft()
