# SPDX-License-Identifier: Apache-2.0
"""A check of the state contract for one way of feeding: which documents, packed and cut how.

The truth for each document is the document alone in one call. A feeding packs documents into the
rows of a batch and feeds the rows in chunks of any size, each padded on the right to a bucket, with
rows that wait, slots that move, states that are saved, restored and rolled back in between.
"""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, insert_slot, take_slot
from tests.recurrentgemma.models import call

LONGEST = 48  # a document of six windows
BUCKETS = (1, 3, 12, LONGEST)  # one token, inside the convolution, across the window, whole
FIRST_BUCKETS = (1, 12, LONGEST)  # of a row's first chunk, before which there is no state
PLAIN = {1, LONGEST}
"""Buckets that are run without positions, too, where no document starts inside of the rows: the
model then goes on from its state. Of the others one program is enough."""
ROWS = 3
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.1}  # logits of scale 1 to 5


@dataclasses.dataclass(frozen=True)
class Step:
    """One call: the chunk's bucket, how many tokens each row gets, and what happens before it."""

    bucket: int
    lengths: tuple[int, ...]
    before: str = "nothing"  # nothing | rollback | move | save


@dataclasses.dataclass(frozen=True)
class Feeding:
    """Documents (lengths) of each row, and the calls that feed them."""

    rows: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    seed: int = 0


def check(model: Griffin, feeding: Feeding) -> None:
    """Raises AssertionError where logits or the final state differ from the document's alone."""
    rng = np.random.default_rng(feeding.seed)
    vocab = model.config.vocab_size
    documents = [[rng.integers(0, vocab, n).astype(np.int32) for n in row] for row in feeding.rows]
    truths = [[alone(model, document) for document in row] for row in documents]
    tokens = [np.concatenate(row) for row in documents]
    positions = [np.concatenate([np.arange(len(d)) for d in row]) for row in documents]
    want = [np.concatenate([logits for logits, _ in row]) for row in truths]
    got = [np.zeros_like(logits) for logits in want]

    state: State | None = None
    done = [0] * ROWS
    slots = list(range(ROWS))  # slots[r]: where row r of the feeding lies in the batch
    for step in feeding.steps:
        if state is not None:
            state, slots = disturb(model, state, slots, step.before)
        chunk = np.zeros((ROWS, step.bucket), np.int32)
        where = np.full((ROWS, step.bucket), -1, np.int32)
        lengths = np.zeros((ROWS,), np.int32)
        for r in range(ROWS):
            n = min(step.lengths[r], step.bucket, len(tokens[r]) - done[r])
            lengths[slots[r]] = n
            chunk[slots[r], :n] = tokens[r][done[r] : done[r] + n]
            where[slots[r], :n] = positions[r][done[r] : done[r] + n]
        starts = (where[:, 1:] == 0).any() or any(
            where[slots[r], 0] == 0 and done[r] for r in range(ROWS)
        )
        given = where if starts or step.bucket not in PLAIN else None
        logits, state = call(model, chunk, state, positions=given, lengths=lengths)
        for r in range(ROWS):
            n = int(lengths[slots[r]])
            got[r][done[r] : done[r] + n] = np.asarray(logits)[slots[r], :n]
            done[r] += n
    assert state is not None
    tolerance = TOLERANCE[model.config.dtype]
    for r in range(ROWS):
        np.testing.assert_allclose(got[r][: done[r]], want[r][: done[r]], rtol=0, atol=tolerance)
        if done[r] == len(tokens[r]):
            same_state(take_slot(state, slots[r]), truths[r][-1][1], tolerance)


def alone(model: Griffin, document: np.ndarray) -> tuple[np.ndarray, State]:
    """Logits and final state of a document by itself in one call."""
    padded = np.zeros((1, LONGEST), np.int32)
    padded[0, : len(document)] = document
    logits, state = call(model, padded, lengths=np.array([len(document)], np.int32))
    return np.asarray(logits)[0, : len(document)], state


def same_state(one: State, other: State, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def disturb(model: Griffin, state: State, slots: list[int], what: str) -> tuple[State, list[int]]:
    """Something that must not change anything that follows."""
    if what == "rollback":  # run on, then go back to the old state
        where = np.asarray(state.position_B)[:, None] + np.arange(3, dtype=np.int32)
        lengths = np.full(ROWS, 3, np.int32)
        call(model, np.full((ROWS, 3), 5, np.int32), state, positions=where, lengths=lengths)
    elif what == "move":  # rotate the slots: every sequence gets another one
        ones = [take_slot(state, i) for i in range(ROWS)]
        for i in range(ROWS):
            state = insert_slot(state, (i + 1) % ROWS, ones[i])
        slots = [(slot + 1) % ROWS for slot in slots]
    elif what == "save":  # to a file and back
        file = io.BytesIO()
        leaves, structure = jax.tree.flatten(state)
        np.savez(file, *[np.asarray(leaf.astype(jnp.float32)) for leaf in leaves])
        file.seek(0)
        arrays = np.load(file)
        state = jax.tree.unflatten(
            structure,
            [jnp.asarray(arrays[f"arr_{i}"]).astype(leaf.dtype) for i, leaf in enumerate(leaves)],
        )
    return state, slots
