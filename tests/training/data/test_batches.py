# SPDX-License-Identifier: Apache-2.0
"""Packing loses no pair and mixes no documents; the seed decides; going on is exact."""

import gc
import json
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.batches import Batch, Batches, Rows, merge_states, pack, padding
from training.data.document import Document
from training.data.documents import InMemory, Mixture


def documents_of(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose ids are all different, so that a pair tells where it comes from."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]


class OnTheFly(InMemory):
    """Documents whose lengths only reading tells, as text has them; some take their time."""

    def __init__(self, documents: list[np.ndarray]) -> None:
        super().__init__(documents)
        self.lengths = None  # type: ignore[assignment]

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        if document % 7 == 0:
            time.sleep(1e-4)
        return super().read(document, start, stop)


def on_the_fly(*lengths: list[int], weights: tuple[float, ...] = (1.0,)) -> Mixture:
    return Mixture(tuple(OnTheFly(documents_of(each)) for each in lengths), weights)


def take(batches: Batches, count: int) -> Rows:
    drawn = [next(batches) for _ in range(count)]
    return Rows(*(np.stack(field) for field in zip(*drawn, strict=True)))


def assert_equal(one: Rows | Batch, other: Rows | Batch) -> None:
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check_rows(rows: Rows, documents: list[np.ndarray]) -> None:
    real = rows.positions_RT >= 0
    np.testing.assert_array_equal(rows.weights_RT, real.astype(np.float32))
    pairs = sorted(zip(rows.tokens_RT[real], rows.targets_RT[real], strict=True))
    assert pairs == sorted(p for ids in documents for p in pairwise(ids))
    first_tokens = {ids[0] for ids in documents}
    for tokens_T, positions_T in zip(rows.tokens_RT, rows.positions_RT, strict=True):
        assert positions_T[0] in (0, -1)
        for t, position in enumerate(positions_T):
            before = positions_T[t - 1] if t else -1
            if position < 0:
                assert (positions_T[t:] < 0).all()  # padding is on the right only
            elif t and tokens_T[t] not in first_tokens:
                assert position == before + 1
                assert tokens_T[t] == tokens_T[t - 1] + 1
            else:
                assert position == 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 17))
def test_every_pair_is_packed_once_and_positions_restart(lengths, row_length):
    documents = documents_of(lengths)
    if max(lengths) < 2:
        with pytest.raises(ValueError, match="nothing to predict"):
            pack(documents, row_length)
        return
    rows = pack(documents, row_length)
    assert [field.dtype for field in rows] == [np.int32, np.int32, np.float32, np.int32]
    assert rows.tokens_RT.shape[1] == row_length
    check_rows(rows, [ids for ids in documents if len(ids) > 1])


def test_an_epoch_holds_every_pair_once_in_another_order_each_time():
    documents = documents_of([30, 2, 1, 7, 90])
    batches = Batches(documents, batch_size=1, row_length=8, seed=3)
    rows = -(-(29 + 1 + 6 + 89) // 8)
    epochs = []
    for number in range(2):
        assert batches.epoch == pytest.approx(number)
        drawn = [next(batches) for _ in range(rows)]
        epochs.append(Rows(*(np.concatenate(field) for field in zip(*drawn, strict=True))))
    check_rows(epochs[0], [documents[i] for i in (0, 1, 3, 4)])
    check_rows(epochs[1], [documents[i] for i in (0, 1, 3, 4)])
    assert not np.array_equal(epochs[0].tokens_RT, epochs[1].tokens_RT)
    assert batches.padding_fraction == pytest.approx(3 / 128)
    assert sorted(padding(batch) for batch in drawn) == [0.0] * 15 + [3 / 8]


@pytest.mark.parametrize("long_documents", ["cut", "carry"])
def test_the_seed_decides_the_order(long_documents):
    def drawn(seed: int) -> np.ndarray:
        batches = Batches(
            documents_of([200, 300]),
            batch_size=4,
            row_length=16,
            seed=seed,
            long_documents=long_documents,
        )
        return take(batches, 20).tokens_RT

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(lambda n: max(n) > 1),
    st.integers(1, 5),
    st.integers(1, 17),
    st.sampled_from(["cut", "carry"]),
)
def test_the_rows_of_a_stream_are_its_documents_end_to_end(
    lengths, batch_size, row_length, long_documents
):
    batches = Batches(
        on_the_fly(lengths),
        batch_size=batch_size,
        row_length=row_length,
        seed=1,
        long_documents=long_documents,
        threads=2,
    )
    drawn = take(batches, 12)
    assert (drawn.positions_RT >= 0).all()  # streams need no padding
    assert (drawn.weights_RT == 1).all()
    assert batches.padding_fraction == 0
    whole = {token: ids for ids in documents_of(lengths) for token in ids[:-1]}
    for row in range(batch_size):
        tokens, targets, positions = (
            drawn[field][:, row].reshape(-1).tolist() for field in (0, 1, 3)
        )
        at = 0
        while at < len(tokens):
            document = whole[tokens[at]]
            skipped = tokens[at] - document[0]
            assert skipped == 0 or (at == 0 and batch_size > len(lengths))
            ids = document[skipped:][: len(tokens) - at + 1].tolist()
            pairs = len(ids) - 1
            assert tokens[at : at + pairs] == ids[:-1]
            assert targets[at : at + pairs] == ids[1:]
            expected = list(range(pairs))
            if long_documents == "cut":  # from the document's start, or from the row's
                expected = [min(p, (at + p) % row_length) for p in range(pairs)]
            assert positions[at : at + pairs] == expected
            at += pairs


def test_streams_go_through_every_document_before_they_repeat_one():
    count, batch_size = 11, 3
    batches = Batches(on_the_fly([3] * count), batch_size=batch_size, row_length=2, seed=0)
    drawn = take(batches, 44).tokens_RT[:, :, 0] // 3  # one document a row
    order = drawn.reshape(-1)  # document number of place 0, 1, 2, ...
    epochs = order.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.arange(count) + 0 * epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # anew each time
    assert batches.epoch == pytest.approx(44 * batch_size / count)


@pytest.mark.parametrize("long_documents", ["cut", "carry"])
def test_streams_that_begin_with_the_same_document_begin_at_other_places_of_it(long_documents):
    options: dict[str, Any] = {"row_length": 8, "seed": 0, "long_documents": long_documents}
    batches = Batches(on_the_fly([81]), batch_size=4, **options)
    assert batches.epoch == 0
    drawn = take(batches, 10)
    assert drawn.tokens_RT[0, :, 0].tolist() == [0, 20, 40, 60]
    assert drawn.positions_RT[0, :, 0].tolist() == [0, 0, 0, 0]  # nothing was read before them
    assert all(len({tuple(row) for row in rows}) == 4 for rows in drawn.tokens_RT)
    assert batches.epoch == 4  # 4 x 80 of 80 pairs
    for documents, batch_size in ((3, 8), (2, 2)):
        few = on_the_fly([100] * documents)
        rows = next(Batches(few, batch_size=batch_size, **options)).tokens_BT
        assert len({tuple(row) for row in np.asarray(rows)}) == batch_size


def test_the_epoch_of_streams_counts_what_was_read_of_a_document():
    batches = Batches(
        on_the_fly([101], [11] * 20, weights=(1.0, 1.0)), batch_size=1, row_length=10, seed=0
    )
    seen = []
    for _ in range(40):
        next(batches)
        seen.append(batches.epochs)
    tokens = np.array(seen) @ [100, 200]  # equal weights, to the document
    np.testing.assert_allclose(tokens, 10 * np.arange(1, 41))


def make(kind: str, **options: Any) -> Batches:
    """Batches of every layout: rows and streams, of one source and of three."""
    lengths = [[50, 20, 1, 64], [5, 9, 3, 2, 7], [300]]
    known = Mixture(tuple(InMemory(documents_of(n)) for n in lengths), (1.0, 0.5, 2.5))
    unknown = on_the_fly(*lengths, weights=(1.0, 0.5, 2.5))
    common: dict[str, Any] = {"batch_size": 8, "row_length": 16, "seed": 0} | options
    if kind == "one, rows":
        return Batches(documents_of(lengths[0]), **common)
    if kind == "rows":
        return Batches(known, **common)
    if kind == "one, streams":
        return Batches(documents_of(lengths[0]), long_documents="carry", **common)
    return Batches(unknown, long_documents="cut" if "cut" in kind else "carry", **common)


KINDS = ["one, rows", "rows", "one, streams", "streams, cut", "streams, carry"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(st.integers(0, 30), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_going_on_from_a_saved_state_is_exact(kind, done, batch_size, threads, prefetch):
    whole = make(kind, batch_size=batch_size, threads=3)
    resumed = make(kind, batch_size=batch_size, threads=threads, prefetch=prefetch)
    take(resumed, 2)  # and what it did before does not matter
    if done:
        take(whole, done)
    resumed.restore(json.loads(json.dumps(whole.state())))
    assert whole.state() == resumed.state()
    assert whole.epochs == resumed.epochs
    assert_equal(take(whole, 5), take(resumed, 5))
    assert whole.state() == resumed.state()
    assert len(json.dumps(whole.state())) < 1000


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(st.data())
def test_hosts_make_together_what_one_makes_alone(kind, data):
    """Each host has its rows; the states of all of them go on, on any other number of hosts."""

    def split() -> list[range]:
        cuts = sorted(data.draw(st.sets(st.integers(1, 7), max_size=3)))
        return [range(start, stop) for start, stop in pairwise([0, *cuts, 8])]

    alone = make(kind)
    state = None
    for _ in range(3):
        hosts = [make(kind, rows=rows, threads=data.draw(st.integers(1, 3))) for rows in split()]
        if state is not None:
            for host in hosts:
                host.restore(state)
        count = data.draw(st.integers(1, 7))
        together = [take(host, count) for host in hosts]
        joined = Rows(*(np.concatenate(field, axis=1) for field in zip(*together, strict=True)))
        assert_equal(joined, take(alone, count))
        states = [host.state() for host in data.draw(st.permutations(hosts))]
        state = json.loads(json.dumps(merge_states(states)))
        assert state == alone.state()


@pytest.mark.parametrize("kind", ["rows", "streams, cut", "streams, carry"])
def test_threads_and_prefetching_change_nothing(kind):
    wanted = take(make(kind, threads=1, prefetch=1), 40)
    for threads, prefetch in ((1, 6), (4, 1), (8, 3)):
        assert_equal(take(make(kind, threads=threads, prefetch=prefetch), 40), wanted)


@pytest.mark.parametrize("known", [True, False])
def test_weights_are_shares_of_tokens_however_long_documents_are(known):
    books, chats = documents_of([2000] * 9), documents_of([41] * 500)
    kind = InMemory if known else OnTheFly
    shifted = [ids + 100_000 for ids in chats]
    mixture = Mixture((kind(books), kind(shifted)), (0.3, 0.9))
    batches = Batches(mixture, batch_size=16, row_length=512, seed=0)
    tokens = take(batches, 100).tokens_RT
    chat = tokens >= 100_000
    assert chat.mean() == pytest.approx(0.75 * (1 - batches.padding_fraction), abs=0.01)
    for part in np.split(chat, 4):  # from the first batches on
        assert part.mean() == pytest.approx(0.75, abs=0.06)
    drawn = 16 * 512 * 100 * np.array([0.25, 0.75]) / [9 * 1999, 500 * 40]
    np.testing.assert_allclose(batches.epochs, drawn, rtol=0.05)
    assert batches.epoch == min(batches.epochs)


def test_other_data_is_not_gone_on_with():
    def batches(documents=(50, 20), **options: Any) -> Batches:
        common: dict[str, Any] = {"batch_size": 2, "row_length": 16, "seed": 0} | options
        return Batches(documents_of(list(documents)), **common)

    state = batches().state()
    for other, cause in (
        (batches((50, 21)), r"documents: \[.*\] -> \[.*\]\): the text, the tokenizer or a source"),
        (batches((20, 50)), "the text, the tokenizer or a source"),
        (batches(row_length=8), "row_length: 16 -> 8.*: row_length"),
        (batches(seed=1), "seed: 0 -> 1.*: seed"),
        (batches(long_documents="carry"), "the kind of source .* or long_documents"),
    ):
        with pytest.raises(ValueError, match=rf"fingerprint .*{cause} has changed since"):
            other.restore(state)
    batches(batch_size=5).restore(state)  # rows are counted, not batches
    streams = make("streams, cut").state()
    with pytest.raises(ValueError, match=r"long_documents has changed since"):
        make("streams, carry").restore(streams)
    with pytest.raises(ValueError, match="batch_size: 8 -> 4"):
        make("streams, cut", batch_size=4).restore(streams)


def test_a_part_of_the_state_is_not_enough():
    parts = [make("streams, cut", rows=rows) for rows in (range(3), range(3, 8))]
    with pytest.raises(ValueError, match=r"holds rows 0 to 2 .* reads rows 3 to 7: .*merge_states"):
        parts[1].restore(parts[0].state())
    with pytest.raises(ValueError, match=r"lack rows \[0, 1, 2\] of a batch of 8: give the states"):
        merge_states([parts[1].state()])
    parts.append(make("streams, cut", rows=range(2, 4)))  # beside another process
    for part in parts:
        take(part, 3)
    whole = make("streams, cut")
    take(whole, 3)
    assert merge_states([part.state() for part in parts]) == whole.state()
    state = parts[2].state()
    state["streams"] = [[0, 9, 9, 9, 9, 9, 9, 9, 9], *state["streams"][1:]]
    with pytest.raises(ValueError, match=r"differ in row 2 of the batch: \["):
        merge_states([parts[0].state(), parts[1].state(), state])
    older = whole.state()
    older["streams"] = [stream[:2] + stream[3:] for stream in older["streams"]]
    with pytest.raises(ValueError, match="does not hold 9 numbers for each row: another version"):
        whole.restore(older)
    next(parts[0])
    with pytest.raises(ValueError, match="differ in batches: 4, 3"):
        merge_states([part.state() for part in parts])
    rows = [make("rows"), make("rows")]
    next(rows[0])
    with pytest.raises(ValueError, match=r"data states differ: .*'next_row': 8"):
        merge_states([each.state() for each in rows])


def test_rows_of_another_batch_are_refused():
    for rows in (range(9), range(3, 3), range(0, 8, 2)):
        with pytest.raises(ValueError, match="expected one or more of the 8 rows"):
            make("rows", rows=rows)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -1.0)])
def test_weights_that_do_not_fit(weights):
    part = InMemory(documents_of([3]))
    with pytest.raises(ValueError, match=r"1 weights for 2 sources|weight .*above 0"):
        Mixture((part, part), weights)


def test_sources_without_a_pair_are_said_so():
    with pytest.raises(ValueError, match="nothing to predict"):
        Batches(documents_of([1, 0, 1]), batch_size=1, row_length=4, seed=0)
    with pytest.raises(ValueError, match="nothing to predict"):
        next(Batches(on_the_fly([1, 0, 1]), batch_size=1, row_length=4, seed=0))
    with pytest.raises(ValueError, match="no sources to train on"):
        Mixture((), ())


@pytest.mark.parametrize("kind", [InMemory, OnTheFly])
def test_a_document_that_cannot_be_read_is_told_and_nothing_is_skipped(kind):
    class Broken(kind):
        broken = True

        def read(self, document, start=0, stop=None):
            if self.broken and document == 3:
                raise ValueError("a.jsonl:4 is not JSON")
            return super().read(document, start, stop)

    part = Broken(documents_of([9] * 5))
    mixture = Mixture((part,), (1.0,))
    batches, drawn = Batches(mixture, batch_size=2, row_length=4, seed=0), []

    def draw_on() -> None:
        while len(drawn) < 20:
            drawn.append(next(batches))

    for _ in range(2):
        with pytest.raises(ValueError, match=r"a\.jsonl:4 is not JSON"):
            draw_on()
    assert len(drawn) < 20
    part.broken = False
    draw_on()
    wanted = Batches(mixture, batch_size=2, row_length=4, seed=0)
    for batch in drawn:
        assert_equal(batch, next(wanted))


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
    made = -1
    while made != len(read):  # until it has made all that it makes ahead
        made = len(read)
        time.sleep(0.3)
    assert made <= 2 * (1 + 3 + 1 + 1)  # given, waiting, held by the thread, being made
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
