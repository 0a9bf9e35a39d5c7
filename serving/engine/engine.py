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

import dataclasses
import itertools
import secrets
import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jax.sharding import Mesh

from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import CAPACITY
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.chat import check_text
from serving.engine.intake import Intake
from serving.engine.programs import Programs
from serving.engine.prompt import Prompt
from serving.engine.request import Event, GenerationRequest, TokenScore
from serving.engine.sequence import LiveSequence
from serving.engine.slots import Slots, SlotTokens
from serving.engine.speculation import Proposer, Speculation
from serving.features.adapters import Adapters, place_of
from serving.features.constraints import ConstraintFailed, Constraints
from serving.features.prefix_cache import PrefixCache

# A step decodes for about this long, and reads prompts for no longer than it decodes: what arrives
# meanwhile waits no longer, and what is decoded takes at most twice as long as alone.
BLOCK_SECONDS = 0.04
FULL_BLOCKS = 2.5  # of them at a time while all slots are taken: whoever arrives has to wait anyhow
MAX_STEPS = min(32, CAPACITY)  # of one dispatch; a stop string is looked for after each
STEPS_BETWEEN = 4  # of one dispatch, while prompts are read or nobody has a token yet


class Engine:
    """A language model with `slots` sequences in flight. One thread at a time may call it.

    max_prompt: most tokens of a prompt; None for no limit.
    constrained: whether a request may have a constraint, and change logits
      (Sampling.changes_logits).
    rows: prompts that one call of the device reads. More is faster where many come, and slower for
      one that is alone, for a program's shape does not depend on who is there.
    cache: keeps states of prompts' beginnings. model: the name of this model there.
    bank: places for adapters, which `adapters` then has.
    mesh: over which the model's channels are divided; without adapters and proposer.
    proposer: guesses tokens ahead (speculation.py), as long as a verification gives at least
      `least_tokens` on average; None: as measured by warm_up.
    constraints: of the tokenizer, for whoever makes a request; None where it has none.
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
        constraints: Constraints | None = None,
        bank: AdapterBank | None = None,
        mesh: Mesh | None = None,
        proposer: Proposer | None = None,
        least_tokens: float | None = None,
    ):
        for name, value in (("slots", slots), ("rows", rows)):
            if value < 1:
                raise UserError(f"{name} is {value}: expected at least 1", field=name)
        if mesh is not None and (bank or proposer):
            raise UserError("over a mesh there are no adapters and no speculation")
        self.lm = lm
        self.slots = slots
        self.max_prompt = max_prompt
        self.constrained = constrained
        self.cache, self.constraints = cache, constraints
        self.vocab_size = lm.tokenizer.vocab_size if lm.tokenizer else lm.config.vocab_size
        self.token_name = lru_cache(maxsize=None)(self._token_name)
        self.adapters = None if bank is None else Adapters(bank, reserved=frozenset({model}))
        self._programs = Programs(lm, vocab_size=self.vocab_size, rows=rows, bank=bank, mesh=mesh)
        self._ids = itertools.count()
        self._intake = Intake(self._programs, slots, cache, model)
        self._running: list[LiveSequence | None] = [None] * slots
        stop_ids = lm.tokenizer.stop_ids if lm.tokenizer else ()
        self._slots = Slots(
            self._programs, slots, stop_ids=tuple(stop_ids), constrained=constrained
        )
        self.speculation = None
        if proposer is not None:
            self.speculation = Speculation(
                self._programs, slots, proposer, stop_ids=tuple(stop_ids), least=least_tokens
            )
        self._steps = 1
        self._reading_seconds = 0.0  # for which prompts may be read before the next block of tokens

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self.running or len(self._intake))

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return sum(sequence is not None for sequence in self._running)

    def check(self, request: GenerationRequest) -> None:
        """Raise UserError for a request that cannot be answered. Any thread may call it."""
        self.tokens(request.prompt)
        length, most = len(request.prompt), request.sampling.max_tokens
        seen = 0 if request.before is None else request.before.count
        config, needed = self.lm.config, seen + length + max(most - 1, 0)
        if "global_attention" in config.block_types and needed > config.context_length:
            raise UserError(
                f"a prompt of {seen + length} tokens and max_tokens {most} need {needed} tokens of "
                "context, and this model's global attention holds "
                f"context_length={config.context_length}: shorten them",
                field="prompt" if seen + length > config.context_length else "max_tokens",
            )
        if request.before is not None and request.before.state is not None:
            version = "" if request.adapter is None else request.adapter.version
            if request.before.adapter != version:
                message = (
                    f"the session's state is of {_whose(request.before.adapter)}, and the request "
                    f"asks for {_whose(version)}: a state goes on with what has computed it"
                )
                raise UserError(message, field="model")
        if request.sampling.stop and self.lm.tokenizer is None:
            message = "a stop string needs a tokenizer, and this checkpoint has none: leave it out"
            raise UserError(message, field="stop")
        constrains = request.constraint is not None or request.sampling.changes_logits
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
        if self.speculation is not None:
            requests = [self._seeded(request) for request in requests]
        first, before = self.tokens(requests[0].prompt), requests[0].before
        assert all(np.array_equal(first, request.prompt) for request in requests[1:])
        assert len({request.adapter for request in requests}) == 1
        if before is not None:
            assert len(requests) == 1, "a session goes on one way"
            first = np.concatenate([np.array(before.unread, np.int32), first])
        tokenizer = self.lm.tokenizer
        sequences = [LiveSequence(next(self._ids), request, tokenizer) for request in requests]
        self._intake.submit(Prompt(first, sequences))
        return [sequence.id for sequence in sequences]

    def cancel(self, id: int) -> None:
        """Forget a request wherever it is; there will be no more events of it.

        Raises ValueError for one that is not here, or is finished.
        """
        for slot, sequence in enumerate(self._running):
            if sequence is not None and sequence.id == id:
                return self._free(slot)
        if not self._intake.cancel(id):
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
        if self.adapters is not None:
            self.adapters.bank.warm_up()
        if self.speculation is not None:
            self.speculation.warm_up(self._slots.token_seconds())

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

    def _seeded(self, request: GenerationRequest) -> GenerationRequest:
        """With a seed, for a sequence may change its place."""
        if request.sampling.seed is not None:
            return request
        sampling = dataclasses.replace(request.sampling, seed=secrets.randbits(63))
        return dataclasses.replace(request, sampling=sampling)

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
        while True:
            self._begin(self._intake.admit(self.running), events)
            if not self._intake.has_to_read or (self.running and self._reading_seconds <= 0):
                return
            began = time.monotonic()
            self._begin(self._intake.advance(), events)
            self._reading_seconds -= time.monotonic() - began
            if not self.running and self._reading_seconds <= 0:
                return

    def _begin(self, prompts: Sequence[Prompt], events: list[Event]) -> None:
        """Tell of prompts that are read, and put into free slots what is ready."""
        now = time.monotonic()
        for prompt in prompts:
            for sequence in list(prompt.sequences):
                sequence.read = now
                sequence.state = None if prompt.before is None else prompt.opened.state
                event = sequence.prompt_read(prompt.opened.scores)
                if event is not None:
                    events.append(event)
                    if event.finish_reason is not None:
                        self._intake.cancel(sequence.id)
        while self._intake.ready and None in self._running:
            prompt = self._intake.ready[0]
            sequence = prompt.sequences.pop(0)
            slot = self._running.index(None)
            request = sequence.request
            place = self._slots
            if self.speculation is not None and self.speculation.takes(request):
                place = self.speculation
            place.put(
                slot, prompt.opened.state, request.prompt, request.sampling, place=prompt.place
            )
            self._running[slot] = sequence
            if not prompt.sequences:
                self._intake.ready.popleft()

    def _free(self, slot: int) -> None:
        self._running[slot] = None
        self._slots.clear(slot)
        if self.speculation is not None:
            self.speculation.clear(slot)

    def _decode(self, events: list[Event]) -> None:
        masks = self._masks(events)
        running = [(i, s) for i, s in enumerate(self._running) if s is not None]
        began = time.monotonic()
        guessing = set() if self.speculation is None else set(self.speculation.guessing)
        told: dict[int, SlotTokens] = {}
        if plain := [(i, s) for i, s in running if i not in guessing]:
            told |= self._decode_plain(plain, masks)
        if self.speculation is not None and guessing:
            scored = any(s.request.logprobs is not None for i, s in running if i in guessing)
            told |= self.speculation.step(scored=scored)
        took = time.monotonic() - began
        self._reading_seconds = min(self._reading_seconds, 0.0) + took
        for slot, sequence in running:
            event = sequence.push(told[slot].scores, done=told[slot].done)
            if event is not None:
                events.append(event)
                if event.finish_reason is not None:
                    self._free(slot)
                    self._intake.read_later(sequence)
                    continue
            self._move(slot, sequence, told[slot].scores)

    def _masks(self, events: list[Event]) -> dict[int, np.ndarray]:
        """Slot -> the tokens that may come next, where not all may; an answer that cannot be held
        to its form is given up here."""
        masks = {}
        for slot, sequence in enumerate(self._running):
            try:
                mask_M = None if sequence is None else sequence.allowed()
            except ConstraintFailed as error:
                assert sequence is not None
                events.append(sequence.failed(error))
                self._free(slot)
            else:
                if mask_M is not None:
                    masks[slot] = mask_M
        return masks

    def _decode_plain(
        self, plain: Sequence[tuple[int, LiveSequence]], allowed: dict[int, np.ndarray]
    ) -> dict[int, SlotTokens]:
        """A token or more of each of these slots."""
        scored = any(s.request.logprobs is not None for _, s in plain)
        began = time.monotonic()
        steps = self._steps
        if self._intake.waiting:  # a slot that is done is decoded on for nobody
            steps = min([steps, *(s.tokens_left for _, s in plain)])
        if any(s.request.constraint for _, s in plain):
            steps = 1
        elif self._intake.reading or not any(s.tokens for _, s in plain):
            steps = min(steps, STEPS_BETWEEN)
        most = steps
        if self.speculation is not None:
            pauses = [self.speculation.pause_left(slot) for slot, _ in plain]
            most = min([steps, *(left for left in pauses if left is not None)])
        slots = self._slots.decode(most, scored=scored, allowed=allowed)
        taken = max(len(slot.scores) for slot in slots)
        seconds = max(time.monotonic() - began, 1e-6) / max(1, taken)
        block = BLOCK_SECONDS * (FULL_BLOCKS if None not in self._running else 1)
        self._steps = max(1, min(2 * self._steps, MAX_STEPS, int(block / seconds)))
        return {slot: slots[slot] for slot, _ in plain}

    def _move(self, slot: int, sequence: LiveSequence, scores: Sequence[TokenScore]) -> None:
        """Where a sequence begins or ends to guess, its state goes to where it is needed."""
        speculation, sampling = self.speculation, sequence.request.sampling
        if speculation is None:
            return
        place = place_of(sequence.request.adapter)
        if speculation.gave_up(slot):
            state, last = speculation.pause(slot)
            count = len(sequence.tokens)
            self._slots.put(slot, state, [last], sampling, place=place, count=count)
        elif slot not in speculation.guessing:
            speculation.decoded(slot, [score.token_id for score in scores])
            if speculation.pause_left(slot) == 0:
                speculation.resume(slot, self._slots.state_of(slot))
                self._slots.clear(slot)


def _whose(version: str) -> str:
    return f"adapter version {version}" if version else "the base"
