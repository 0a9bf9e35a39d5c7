# SPDX-License-Identifier: Apache-2.0
"""Several JAX processes that read and write one checkpoint: where one of them fails, all do.

A process that raises while the others go on leaves them in a barrier, for Orbax's 20 minutes or for
ever. In a program of one process all of this costs nothing.
"""

from collections.abc import Callable
from typing import ClassVar, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from checkpoints.open_checkpoint import Damaged

Result = TypeVar("Result")
TIMEOUT = 3600  # seconds in which all must have written their part


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def all_or_none(function: Callable[[], Result]) -> Result:
    """function(), once no process has raised. It must not talk to other processes itself.

    Raises:
      Damaged: some process raised it, and none raised anything else.
      OSError: another process raised anything else; its own error says what.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    try:
        result = function()
    except Exception as raised:  # the others must hear of it first
        error = raised
    outcome = 0 if error is None else 1 if isinstance(error, Damaged) else 2
    outcomes = multihost_utils.process_allgather(np.array(outcome, np.int32)).reshape(-1)
    worst = int(outcomes.max())
    if error is not None and outcome == worst:
        raise error
    if worst:
        kind = Damaged if worst == 1 else OSError
        raise kind(f"process {int(outcomes.argmax())} could not go on; its own error says why")
    return result  # type: ignore[return-value]


def broadcast_text(text: Callable[[], str]) -> str:
    """text() of process 0, on every process: others may see an older state of a shared disk."""
    encoded = all_or_none(lambda: text().encode() if is_first() else b"")
    if jax.process_count() == 1:
        return encoded.decode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.frombuffer(encoded.ljust(size, b" ")[:size], np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()


def all_gather_text(text: str) -> list[str]:
    """The text of every process, in order, on every process."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(encoded.size)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: encoded.size] = encoded
    gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(gathered, sizes, strict=True)]


class OtherFailed(OSError):
    """Another process could not write its part."""


class Rendezvous:
    """The barrier that Orbax's background threads meet in, made so that one process may fail.

    One that fails says so and still comes to the barrier that the others come to; there they all
    see it and raise.
    """

    _passed: ClassVar[int] = 0  # every process comes to the same ones, in the same order

    def __init__(self) -> None:
        from jax._src import distributed  # JAX has no public name for its key-value store

        client = distributed.global_state.client
        assert client is not None, "several processes without jax.distributed.initialize"
        self._client = client

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Wait for all. Raises OtherFailed if one of them did."""
        number = Rendezvous._passed
        Rendezvous._passed += 1
        self._client.wait_at_barrier(f"griffin/checkpoint/{number}", timeout_ms)
        failed = self._client.key_value_dir_get(f"griffin/failed/{number}/")
        if failed:
            where, why = failed[0]
            raise OtherFailed(f"process {where.rsplit('/', 1)[-1]}: {why}")

    def fail(self, error: BaseException) -> None:
        """Let the others know, and wait until they do."""
        where = f"griffin/failed/{Rendezvous._passed}/{jax.process_index()}"
        self._client.key_value_set(where, str(error))
        try:
            self(key="", timeout_ms=TIMEOUT * 1000)
        except (OSError, RuntimeError):
            return  # that all have heard is all that is wanted
