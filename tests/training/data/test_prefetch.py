# SPDX-License-Identifier: Apache-2.0
"""Batches are made ahead of time, as many as are wanted, and by whom they are wanted."""

import gc
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.training.data.small_documents import (
    OnTheFly,
    documents_of,
)
from training.data.batches import Batches
from training.data.documents import Mixture
from training.data.prefetch import Prefetched


def test_batches_wait_for_whoever_wants_them_and_end_with_them():
    read = []

    class Counted(OnTheFly):
        def read(self, document, start=0, stop=None):
            read.append(document)
            return super().read(document, start, stop)

    def threads() -> set[threading.Thread]:
        return set(threading.enumerate()) - before

    before = set(threading.enumerate())
    mixture = Mixture((Counted(documents_of([5] * 9)),), (1.0,))
    batches = Batches(mixture, batch_size=2, row_length=4, seed=0, threads=2, prefetch=3)
    assert not read  # nothing is read before it is asked for
    next(batches)
    count = -1
    while count != len(read):  # until it has made all that it makes ahead
        count = len(read)
        time.sleep(0.3)
    assert count <= 2 * (1 + 3 + 1 + 1)  # given, waiting, held by the thread, being made
    assert {thread.name for thread in threads()} >= {"prefetch", "tokenise_0"}
    state = batches.state()
    assert state["batches"] == 1
    batches.close()
    assert "prefetch" not in {thread.name for thread in threads()}
    assert batches.state() == state
    next(batches)
    assert batches.state()["batches"] == 2
    del batches
    gc.collect()
    for thread in threads():
        thread.join(timeout=10)
    assert not threads()


class Counter:
    """0, 1, 2, ... and an error instead of 3, once."""

    def __init__(self) -> None:
        self.next, self.broken = 0, True

    def __next__(self) -> int:
        if self.next == 3 and self.broken:
            self.broken = False
            raise OSError("three")
        self.next += 1
        return self.next - 1

    def get_state(self) -> dict[str, Any]:
        return {"next": self.next}

    def set_state(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def test_the_state_is_that_of_what_was_given_and_an_error_comes_in_its_turn():
    ahead = Prefetched(Counter(), 2)
    assert ahead.get_state() == {"next": 0}
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    assert ahead.get_state() == {"next": 3}
    with pytest.raises(OSError, match="three"):
        next(ahead)
    assert next(ahead) == 3  # it stands where it stood
    ahead.set_state({"next": 10})
    assert [next(ahead) for _ in range(2)] == [10, 11]
    ahead.close()


def test_a_program_ends_while_batches_are_made_by_a_library():
    """Whose C++ would stop the process, were its thread ended inside of it."""
    program = """
import numpy as np
from training.data.documents import InMemory, Mixture
from training.data.batches import Batches
from grain.experimental import index_shuffle

class Slow(InMemory):
    def read(self, document, start=0, stop=None):
        for place in range(1000):
            index_shuffle(place, max_index=10**6, seed=0, rounds=4)
        return super().read(document, start, stop)

batches = Batches(Mixture((Slow([np.arange(9)] * 9),), (1.0,)), batch_size=64, row_length=8, seed=0)
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
