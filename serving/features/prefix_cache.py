# SPDX-License-Identifier: Apache-2.0
"""States of prompts' beginnings, so that what was read once is not read again.

A state is kept under its model (a name for adapter and version), and the tokens that it has read: a
chain of hashes, one for each chunk of the grid (engine/chunks.py), so that the longest beginning
that is known is found in one pass. It is what the engine computes for any prompt that begins so,
bit for bit; hence an answer is the same from a cold cache and from a warm one.

The least recently used go first: from the device to the host, and from there. Both are bounded in
bytes. A state has a fixed size, whatever it has read.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from recurrentgemma.state import State

Key = bytes


def prefix_keys(model: str, tokens_T: Sequence[int] | np.ndarray, grid: int) -> list[Key]:
    """The key of each whole chunk of `grid` tokens: of all tokens up to its end."""
    tokens_T = np.ascontiguousarray(tokens_T, np.int32)
    key = hashlib.blake2b(f"{grid} {model}".encode(), digest_size=16).digest()
    keys = []
    for stop in range(grid, len(tokens_T) + 1, grid):
        part = tokens_T[stop - grid : stop].tobytes()
        key = hashlib.blake2b(key + part, digest_size=16).digest()
        keys.append(key)
    return keys


def state_bytes(state: State) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(state))


@dataclasses.dataclass
class CacheCounts:
    """In tokens of prompts: looked for, and found."""

    queried: int = 0
    hit: int = 0


class PrefixCache:
    """States by key. device_bytes, host_bytes: at most so much is kept there; 0 for none."""

    def __init__(self, *, device_bytes: int, host_bytes: int = 0):
        self.counts = CacheCounts()
        self._most = {"device": device_bytes, "host": host_bytes}
        self._kept: dict[str, OrderedDict[Key, Any]] = {
            "device": OrderedDict(),
            "host": OrderedDict(),
        }
        self._bytes = {"device": 0, "host": 0}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def __contains__(self, key: Key) -> bool:
        return any(key in kept for kept in self._kept.values())

    def bytes(self, place: str) -> int:
        """Of the states "device" or "host"."""
        return self._bytes[place]

    def longest(self, keys: Sequence[Key]) -> tuple[int, State | None]:
        """How many of the keys, from the first on, the longest known beginning has, and its state,
        on the device; (0, None) where there is none. keys: as prefix_keys gives them."""
        for count in range(len(keys), 0, -1):
            state = self._take(keys[count - 1])
            if state is not None:
                return count, state
        return 0, None

    def put(self, key: Key, state: State) -> None:
        """Keep a state, which must stay as it is."""
        if key in self:
            self._take(key)  # it is used again
            return
        self._store("device", key, state)

    def clear(self) -> None:
        for place, kept in self._kept.items():
            kept.clear()
            self._bytes[place] = 0

    def _take(self, key: Key) -> State | None:
        """The state of a key, now the most recently used and on the device."""
        for place, kept in self._kept.items():
            if key in kept:
                if place == "device":
                    kept.move_to_end(key)
                    return kept[key]
                state = jax.device_put(kept.pop(key))
                self._bytes[place] -= state_bytes(state)
                self._store("device", key, state)
                return state
        return None

    def _store(self, place: str, key: Key, state: Any) -> None:
        size, kept = state_bytes(state), self._kept[place]
        if size > self._most[place]:
            if place == "device":
                self._store("host", key, jax.device_get(state))
            return
        kept[key] = state
        self._bytes[place] += size
        while self._bytes[place] > self._most[place]:
            oldest, dropped = kept.popitem(last=False)
            self._bytes[place] -= state_bytes(dropped)
            if place == "device":
                self._store("host", oldest, jax.device_get(dropped))
