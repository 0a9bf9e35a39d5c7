# SPDX-License-Identifier: Apache-2.0
"""What may come next, by n-grams: the tokens that followed where the last few stood before.

A guess costs nothing but what it takes to verify it; text that repeats itself, such as code that is
edited, a table, or an answer that quotes its prompt, is often guessed right.
"""

from collections.abc import Sequence

from recurrentgemma.generation.sampling import Sampling

LONGEST, SHORTEST = 4, 2  # n-grams that are looked for; the longest that is known counts
LOOKED_AT = 16_384  # last tokens of a prompt


class NgramProposals:
    """Of one sequence: all that it has read and generated."""

    def __init__(self, tokens: Sequence[int]):
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> place after it, of the last one
        self.extend([int(token) for token in tokens[-LOOKED_AT:]])

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            place = len(self._tokens)  # of `token`: the n-grams that end before it are now known
            for n in range(SHORTEST, min(LONGEST, place) + 1):
                self._after[tuple(self._tokens[place - n :])] = place
            self._tokens.append(token)

    def next(self, most: int) -> list[int]:
        """Up to `most` tokens that may follow."""
        for n in range(min(LONGEST, len(self._tokens)), SHORTEST - 1, -1):
            place = self._after.get(tuple(self._tokens[-n:]))
            if place is not None:
                return self._repeated(place, most)
        return []

    def _repeated(self, place: int, most: int) -> list[int]:
        """The tokens from a place on; at the end they go on with themselves, as what repeats
        does."""
        period = len(self._tokens) - place
        return [self._tokens[place + i % period] for i in range(most)]


class NgramProposer:
    """A NgramProposals for each slot."""

    def __init__(self) -> None:
        self._slots: dict[int, NgramProposals] = {}

    def begin(self, slot: int, tokens: Sequence[int], sampling: Sampling) -> None:
        self._slots[slot] = NgramProposals(tokens)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self._slots[slot].extend(tokens)

    def next(self, most: dict[int, int], counts: dict[int, int]) -> dict[int, list[int]]:
        return {slot: self._slots[slot].next(count) for slot, count in most.items()}

    def warm_up(self) -> None:
        """There is nothing to compile."""
