# SPDX-License-Identifier: Apache-2.0
"""Batches of packed documents in an order that the seed alone decides, and the state that goes on
from any of them.

Legend: B rows in a batch (over all processes), T time (tokens in a row).

| layout  | module       | for                                                                  |
|---------|--------------|----------------------------------------------------------------------|
| rows    | `packing.py` | documents of known lengths (in memory, token shards) that may be cut |
| streams | `streams.py` | text tokenised on the fly, and documents carried on from row to row  |
| passes  | `passes.py`  | so many epochs and no more: every document equally often             |

No order depends on threads, processes or prefetching. A process makes only its own rows of
each batch; put together, they are the rows that one process alone would have made.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch as Batch
from training.data.document import Document
from training.data.documents import InMemory, Mixture
from training.data.packing import IN_WINDOWS, ROWS, PackedBatches
from training.data.packing import PackedRows as PackedRows
from training.data.packing import pack as pack
from training.data.passes import PassBatches
from training.data.prefetch import Prefetched
from training.data.streams import StreamBatches

LongDocuments = Literal["cut", "carry"]
MAX_THREADS = 16

# What a run may find changed, as a person would look for it.
_CAUSES = {
    "documents": "the text, the tokenizer or a source",
    "weights": "the weights of the sources",
    "batch_size": "batch_size",
    "row_length": "row_length",
    "seed": "seed",
    "epochs": "epochs",
    "layout": "the kind of source (tokenised ahead, or not) or long_documents",
}


class Batches:
    """An iterator of batches, made ahead of time in the background. It ends only with `epochs`.

    documents: documents or arrays of their ids, or a mixture of sources.
    batch_size: B; with `rows`, this process yields only those of them, [len(rows), T].
    long_documents: what becomes of a document that goes over the end of a row. "cut": the rest is a
      document of its own, at position 0. "carry": it goes on in the same row of the next batch, its
      positions too, for a trainer that carries the model's state from batch to batch.
    epochs: how often each document is learned from, before the batches end; a part of an epoch is
      some of the documents. 0: endless. All documents are read once before the first batch.
    threads: that tokenise; 0: one a core, at most MAX_THREADS. They do not change what comes.
    prefetch: batches made ahead.

    A batch is of NumPy arrays. Position 0 starts a document; position -1 (weight 0) is padding.
    Raises ValueError: nothing to predict, or rows that are not of the batch.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray | Document] | Mixture,
        *,
        batch_size: int,
        row_length: int,
        seed: int,
        long_documents: LongDocuments = "cut",
        epochs: float = 0.0,
        rows: range | None = None,
        threads: int = 0,
        prefetch: int = 2,
    ) -> None:
        if not isinstance(documents, Mixture):
            documents = Mixture((InMemory(documents),), (1.0,))
        rows = range(batch_size) if rows is None else rows
        if rows.step != 1 or not 0 <= rows.start < rows.stop <= batch_size:
            raise UserError(f"{rows}: expected one or more of the {batch_size} rows of a batch")
        self.mixture = documents
        common: dict[str, Any] = {"batch_size": batch_size, "row_length": row_length, "seed": seed}
        self._fingerprint: dict[str, Any] = {
            "documents": [part.fingerprint for part in documents.parts],
            "weights": list(documents.weights),
            "row_length": row_length,
            "seed": seed,
        }
        lengths_known = all(part.lengths is not None for part in documents.parts)
        threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
        carry = long_documents == "carry"
        self.count: int | None = None  # of batches, where they end
        if epochs:
            self._fingerprint |= {"layout": f"passes, {long_documents}", "batch_size": batch_size}
            self._fingerprint["epochs"] = epochs
            self._layout = PassBatches(
                documents, **common, epochs=epochs, carry=carry, rows=rows, threads=threads
            )
            self.count = len(self._layout)
        elif lengths_known and not carry:
            self._layout = PackedBatches(documents, **common, rows=rows)
            self._fingerprint |= self._layout.layout
        else:
            self._fingerprint |= {"layout": f"streams, {long_documents}", "batch_size": batch_size}
            self._layout = StreamBatches(
                documents, **common, carry=carry, rows=rows, threads=threads
            )
        self._ahead = Prefetched(self._layout, prefetch)
        self._tokens = self._padding = 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        rows = next(self._ahead)
        self._tokens += rows.positions_RT.size
        self._padding += int((rows.positions_RT < 0).sum())
        return Batch(*cast(Any, rows))  # NumPy's arrays: the loop puts them where they belong

    @property
    def padding_fraction(self) -> float:
        """The share of padding in the batches that this object has given."""
        return self._padding / max(self._tokens, 1)

    @property
    def epochs(self) -> tuple[float, ...]:
        """How often the run has gone through each source."""
        return self._layout.epochs(self._ahead.get_state())

    @property
    def epoch(self) -> float:
        """How often the run has gone through the data: through the source it has gone through
        least often."""
        return min(self.epochs)

    def check_steps(self, steps: int) -> None:
        """Raises ValueError: the batches end before or after so many steps."""
        if self.count not in (None, steps):
            raise UserError(
                f"steps={steps}, but data.epochs={self._fingerprint['epochs']} is {self.count} "
                f"batches of this size: ask for {self.count} steps, or for data.epochs=0"
            )

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on after the last batch given: JSON values.

        With several processes, each has the state of its own rows; see `merge_states`.
        """
        return {**self._ahead.get_state(), "fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the batches that led to `state`, whatever process, thread or split into rows
        made it.

        Raises ValueError: it was made of other data, or lacks rows that this process needs.
        """
        saved, now = dict(state["fingerprint"]), self._fingerprint
        order = {n: saved[n] for n in ("layout", "window") if n in saved}
        if both_rows := {order.get("layout"), now["layout"]} <= {ROWS, IN_WINDOWS}:
            now = {n: value for n, value in now.items() if n != "window"} | order
        changed = [name for name in _CAUSES if saved.get(name) != now.get(name)]
        if changed:
            values = "; ".join(f"{n}: {saved.get(n)} -> {now.get(n)}" for n in changed)
            causes = ", ".join(_CAUSES[name] for name in changed)
            raise UserError(
                f"the fingerprint of the training data is not the saved run's (saved -> now: "
                f"{values}): {causes} has changed since; bring the old back or start a new run "
                f"with another --run-dir"
            )
        if both_rows:
            assert isinstance(self._layout, PackedBatches)
            self._ahead.close()
            self._layout.order_by(order.get("window"))
            self._fingerprint = now
        self._ahead.set_state({n: value for n, value in state.items() if n != "fingerprint"})

    def close(self) -> None:
        """Stop making batches ahead; being asked for the next one starts it again."""
        self._ahead.set_state(self._ahead.get_state())


def padding(batch: Batch) -> float:
    """The share of padding in one batch."""
    return float(np.mean(np.asarray(batch.positions_BT) < 0))


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The one state of a run out of its processes' states, in any order. Processes that read the
    same rows, as those do that share one row of a mesh, agree on them.

    Raises ValueError: they are of different batches or data, or rows are missing.
    """
    first = dict(states[0])
    if "streams" not in first:
        if any(dict(state) != first for state in states):
            raise UserError(f"the processes' data states differ: {', '.join(map(str, states))}")
        return first
    streams: dict[int, Any] = {}
    for state in states:
        for name in ("fingerprint", "batches"):
            if state.get(name) != first[name]:
                raise UserError(
                    f"the processes' data states differ in {name}: {first[name]}, {state.get(name)}"
                )
        for row, stream in enumerate(state["streams"], state["rows"][0]):
            if streams.setdefault(row, stream) != stream:
                raise UserError(
                    f"the processes' data states differ in row {row} of the batch: "
                    f"{streams[row]}, {stream}"
                )
    batch_size = first["fingerprint"]["batch_size"]
    if missing := sorted(set(range(batch_size)) - streams.keys()):
        raise UserError(
            f"the processes' data states lack rows {missing} of a batch of {batch_size}: give the "
            f"states of all processes"
        )
    return {**first, "rows": [0, batch_size], "streams": [streams[n] for n in range(batch_size)]}
