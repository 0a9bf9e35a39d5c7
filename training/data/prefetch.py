# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead of time, by a thread, with the state of the batch that was given last.

Grain's own prefetching iterator waits for its thread when it is collected as garbage, which may
happen inside of another such thread, while that holds a lock that the first one waits for. Here
dropping the iterator only tells its thread to end.
"""

import atexit
import contextlib
import queue
import threading
import weakref
from typing import Any, Generic, Protocol, TypeVar

Item_co = TypeVar("Item_co", covariant=True)
Item = TypeVar("Item")
LOOK_UP = 0.1  # seconds after which a waiting thread looks whether it is wanted still
_AT_EXIT = 5.0  # seconds that a thread may take to end before the interpreter does
# Of each thread, what ends it.
_threads: weakref.WeakKeyDictionary[threading.Thread, list[bool]] = weakref.WeakKeyDictionary()


@atexit.register
def _end_threads() -> None:
    """The interpreter cannot end well around a thread that is inside of a C++ library."""
    threads = list(_threads.items())
    for _, unwanted in threads:
        unwanted.append(True)
    for thread, _ in threads:
        thread.join(_AT_EXIT)


class Checkpointed(Protocol[Item_co]):
    """An iterator whose state says what comes next. After an error it stands where it stood."""

    def __next__(self) -> Item_co: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class Prefetched(Generic[Item]):
    """The same iterator, at most `depth` items ahead. Used by one thread."""

    def __init__(self, iterator: Checkpointed[Item], depth: int) -> None:
        self._iterator, self._depth = iterator, depth
        self._state = iterator.get_state()
        self._thread: threading.Thread | None = None

    def __next__(self) -> Item:
        if self._thread is None:
            self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue(self._depth)
            unwanted: list[bool] = []
            self._thread = threading.Thread(
                target=_fill,
                args=(self._iterator, self._queue, unwanted),
                name="prefetch",
                daemon=True,
            )
            # Appending takes no lock, so it may be done wherever garbage is collected.
            self._stop = weakref.finalize(self, unwanted.append, True)
            _threads[self._thread] = unwanted
            self._thread.start()
        item, state = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        self._state = state
        return item

    def get_state(self) -> dict[str, Any]:
        """After the item given last."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._iterator.set_state(state)
        self._state = self._iterator.get_state()

    def close(self) -> None:
        """End the thread; what it made ahead is lost, until `set_state`."""
        if self._thread is not None:
            self._stop()
            with contextlib.suppress(queue.Empty):
                while True:  # room for what the thread holds, so that it need not look up
                    self._queue.get_nowait()
            self._thread.join()
            self._thread = None


def _fill(iterator: Checkpointed[Any], out: queue.Queue, unwanted: list[bool]) -> None:
    while not unwanted:
        try:
            entry = next(iterator), iterator.get_state()  # type: ignore[call-overload]
        except BaseException as error:  # whoever waits for the item gets it
            entry = error, None
        while not unwanted:
            try:
                out.put(entry, timeout=LOOK_UP)
                break
            except queue.Full:
                continue
        if isinstance(entry[0], BaseException):
            return
