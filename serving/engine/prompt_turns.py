# SPDX-License-Identifier: Apache-2.0
"""Several prompts are read at once, a chunk at a time, and take turns.

Every second turn is that of the prompt which came first, and the others are those of the prompt
with the fewest tokens left. So a short prompt waits for one chunk of a long one for each of its
own, whatever the length of what is there (the least left first makes the mean time to the first
token the shortest), and no prompt starves: the first in line gets every second chunk at least, and
each becomes the first in line. There is no constant to tune.

Each prompt is read into a state of its own and in chunks that its own length decides, so what is
read does not depend on whose turn it is.
"""

from serving.engine.prompt_reader import PromptReader
from serving.engine.sequence import LiveSequence


class PromptTurns:
    """The prompts that are being read, in the order in which they came."""

    def __init__(self) -> None:
        self._prompts: list[tuple[LiveSequence, PromptReader]] = []
        self._turn_of_the_first = False

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, sequence: LiveSequence, reader: PromptReader) -> None:
        self._prompts.append((sequence, reader))

    def remove(self, id: int) -> bool:
        """Forget a sequence and its state; False where it is not here."""
        others = [prompt for prompt in self._prompts if prompt[0].id != id]
        removed = len(others) < len(self._prompts)
        self._prompts = others
        return removed

    def advance(self) -> tuple[LiveSequence, PromptReader] | None:
        """Read one chunk; the prompt that it has finished, if so, which then is no longer here."""
        first = self._turn_of_the_first
        self._turn_of_the_first = not first
        least_left = min(self._prompts, key=lambda prompt: prompt[1].tokens_left)
        prompt = self._prompts[0] if first else least_left
        if not prompt[1].finished:
            prompt[1].advance()
        if not prompt[1].finished:
            return None
        self._prompts.remove(prompt)
        return prompt
