# SPDX-License-Identifier: Apache-2.0
"""Prompts on their way to the slots: they wait, are read, and wait for free slots.

    wait  ->  read, by turns, after what the cache has of them  ->  ready, until all their sequences
                                                                    have a slot

Prompts that are read or ready, and the slots that are taken, are together at most as many as there
are slots when another prompt is admitted. What a chat's next turn will begin with is read last.
"""

import time
from collections import deque
from functools import partial

import numpy as np

from recurrentgemma.state import State
from serving.engine.chunks import GRID, kept_boundaries, last_boundary
from serving.engine.programs import Programs
from serving.engine.prompt import Prompt
from serving.engine.prompt_reader import PromptReader, advance
from serving.engine.prompt_turns import PromptTurns
from serving.engine.sequence import LiveSequence
from serving.features.prefix_cache import Key, PrefixCache, prefix_keys


class Intake:
    """For so many slots. cache: states of prompts' beginnings; model: its name there."""

    def __init__(self, programs: Programs, slots: int, cache: PrefixCache | None, model: str):
        self.reading = PromptTurns()
        self.ready: deque[Prompt] = deque()
        self._waiting: deque[Prompt] = deque()
        self._later: deque[Prompt] = deque()  # for the cache, when nobody waits
        self._programs, self._slots = programs, slots
        self._cache, self._model = cache, model

    def __len__(self) -> int:
        """All that is here."""
        return len(self._waiting) + len(self.reading) + len(self.ready) + len(self._later)

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for a slot."""
        return bool(self._waiting or self.ready)

    @property
    def has_to_read(self) -> bool:
        return bool(self.reading or self._later)

    def submit(self, prompt: Prompt) -> None:
        self._waiting.append(prompt)

    def cancel(self, id: int) -> bool:
        """Forget a sequence, and its prompt where it was the last one; whether it was here."""
        for prompt in (*self._waiting, *self.reading, *self.ready):
            for sequence in prompt.sequences:
                if sequence.id == id:
                    prompt.sequences.remove(sequence)
                    if not prompt.sequences:
                        self._forget(prompt)
                    return True
        return False

    def admit(self, running: int) -> list[Prompt]:
        """Begin to read what waits, where there are slots for it; returns prompts of which there is
        nothing to read, now ready. running: slots that are taken."""
        read = []
        while self._waiting and running + len(self.reading) + len(self.ready) < self._slots:
            prompt = self._waiting.popleft()
            now, reader = time.monotonic(), self._open(prompt)
            for sequence in prompt.sequences:
                sequence.admitted, sequence.cached_tokens = now, reader.start
            if reader.finished:
                self.ready.append(prompt)
                read.append(prompt)
            else:
                self.reading.add(prompt)
        while self._later and self._later[0].reader is None and self._open(self._later[0]).finished:
            self._later.popleft()
        return read

    def advance(self) -> list[Prompt]:
        """Read a chunk of those whose turn it is; returns prompts that are read, now ready."""
        if not self.reading:
            later = self._later[0]
            advance(self._programs, [later.opened])
            if later.opened.finished:
                self._later.popleft()
            return []
        prompts = self.reading.next(self._programs.rows)
        advance(self._programs, [prompt.opened for prompt in prompts])
        read = [prompt for prompt in prompts if prompt.opened.finished]
        for prompt in read:
            self.reading.remove(prompt)
        self.ready.extend(read)
        return read

    def read_later(self, sequence: LiveSequence) -> None:
        """What a chat's next turn begins with: prompt and answer, in chunks of the grid. The state
        in the slot was computed a token at a time, which is not the same to the last bit."""
        if self._cache is None or sequence.request.before is not None:
            return
        prompt_T = np.asarray(sequence.request.prompt, np.int32)
        tokens_T = np.concatenate([prompt_T, np.frombuffer(sequence.tokens, np.int32)])
        end = last_boundary(len(tokens_T) - 1)
        if end <= len(prompt_T) - 1:
            return  # the prompt's own reading came as far
        adapter = sequence.request.adapter
        self._later.append(Prompt(tokens_T[: end + 1], [], adapter=adapter))
        if len(self._later) > self._slots:
            self._later.popleft()

    def _open(self, prompt: Prompt) -> PromptReader:
        """Begin to read a prompt, after what stands before it, or what the cache has of it."""
        keys: list[Key] = []
        start, state, anew = 0, None, 0
        if prompt.before is not None:
            state, anew = prompt.before.state, max(0, len(prompt.before.unread) - 1)
        elif self._cache is not None:
            model = self._model
            if prompt.adapter is not None:
                model = f"{model} {prompt.adapter.key}"
            keys = prefix_keys(model, prompt.tokens_T[:-1], GRID)
            if not prompt.scored:
                count, state = self._cache.longest(keys)
                start = count * GRID
            if prompt.sequences:
                self._cache.counts.queried += len(prompt.tokens_T)
                self._cache.counts.hit += start
        prompt.reader = PromptReader(
            prompt.tokens_T,
            self._programs.empty if state is None else state,
            start=start,
            anew=anew,
            place=prompt.place,
            scored=prompt.scored,
            at_boundary=partial(self._keep, keys, kept_boundaries(len(prompt.tokens_T) - 1)),
        )
        return prompt.reader

    def _keep(self, keys: list[Key], boundaries: set[int], position: int, state: State) -> None:
        if keys and self._cache is not None and position in boundaries:
            self._cache.put(keys[position // GRID - 1], state)

    def _forget(self, prompt: Prompt) -> None:
        self.reading.remove(prompt)
        for places in (self._waiting, self.ready):
            if prompt in places:
                places.remove(prompt)
