# SPDX-License-Identifier: Apache-2.0
"""Several prompts are being read, a chunk at a time, and take turns.

Every second turn is that of the prompt which came first, and the others are those of the prompt
with the fewest tokens left. So a short prompt waits for one chunk of a long one for each of its
own, whatever the length of what is there (the least left first makes the mean time to the first
token the shortest), and no prompt starves: the first in line gets every second chunk at least, and
each becomes the first in line. There is no constant to tune. Where a call reads several prompts,
the others of the same program come along, first the first in line.

Each prompt is read into a state of its own and in chunks that its own length decides, so what is
read does not depend on whose turn it is, nor on who comes along.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar


class Reading(Protocol):
    """What is being read: see PromptReader."""

    @property
    def tokens_left(self) -> int: ...

    @property
    def program(self) -> tuple[int, bool]: ...


R = TypeVar("R", bound=Reading)


class PromptTurns:
    """What is being read, in the order in which it came."""

    def __init__(self) -> None:
        self._readings: list = []
        self._turn_of_the_first = False

    def __len__(self) -> int:
        return len(self._readings)

    def __iter__(self) -> Iterator:
        return iter(self._readings)

    def add(self, reading: Reading) -> None:
        self._readings.append(reading)

    def remove(self, reading: Reading) -> None:
        self._readings = [other for other in self._readings if other is not reading]

    def next(self, rows: int) -> list:
        """Whose turn it is, at most `rows` of one program. The caller reads a chunk of each, and
        removes what is finished."""
        first = self._turn_of_the_first
        self._turn_of_the_first = not first
        least_left = min(self._readings, key=lambda reading: reading.tokens_left)
        chosen = self._readings[0] if first else least_left
        others = [
            reading
            for reading in self._readings
            if reading is not chosen and reading.program == chosen.program
        ]
        return [chosen, *others[: rows - 1]]
