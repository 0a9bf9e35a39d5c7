# SPDX-License-Identifier: Apache-2.0
"""The seed decides the order, in every layout; going on is exact; what does not fit is refused."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.data.small_documents import (
    OnTheFly,
    assert_equal,
    documents_of,
    on_the_fly,
    take,
)
from training.data.batches import Batches, PackedRows, merge_states
from training.data.documents import InMemory, Mixture


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
    if kind == "rows in windows":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.data.packing.WINDOW", 1024)
            return Batches(MANY, **common)
    if kind == "passes":
        equal = Mixture(unknown.parts, (1.0,) * 3)
        return Batches(equal, long_documents="carry", epochs=50.5, **common)
    if kind == "one, streams":
        return Batches(documents_of(lengths[0]), long_documents="carry", **common)
    return Batches(unknown, long_documents="cut" if "cut" in kind else "carry", **common)


MANY = Mixture((InMemory(documents_of([3, 2, 5] * 700)), InMemory(documents_of([9] * 50))), (3, 1))
KINDS = [
    "one, rows",
    "rows",
    "rows in windows",
    "one, streams",
    "streams, cut",
    "streams, carry",
    "passes",
]


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
        by_host = [take(host, count) for host in hosts]
        joined = PackedRows(
            *(np.concatenate(field, axis=1) for field in zip(*by_host, strict=True))
        )
        assert_equal(joined, take(alone, count))
        states = [host.state() for host in data.draw(st.permutations(hosts))]
        state = json.loads(json.dumps(merge_states(states)))
        assert state == alone.state()


@pytest.mark.parametrize("kind", ["rows", "streams, cut", "streams, carry", "passes"])
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


def test_a_run_goes_on_in_the_order_that_it_began_with():
    """Begun before there were windows, or with windows of another size."""
    common: dict[str, Any] = {"batch_size": 8, "row_length": 16, "seed": 0}
    before, now = Batches(MANY, **common), make("rows in windows")
    assert before.state()["fingerprint"]["layout"] == "rows"
    in_windows = {"layout": "rows in windows", "window": 1024}
    assert in_windows.items() <= now.state()["fingerprint"].items()
    assert not np.array_equal(take(before, 5).tokens_RT, take(now, 5).tokens_RT)
    for saved, other in ((before, make("rows in windows")), (now, Batches(MANY, **common))):
        next(other)
        other.restore(json.loads(json.dumps(saved.state())))
        assert other.state() == saved.state()
        assert_equal(take(other, 60), take(saved, 60))  # over the end of the epoch
        assert other.state() == saved.state()
    with pytest.raises(ValueError, match="layout: rows in windows -> streams, carry"):
        Batches(MANY, long_documents="carry", **common).restore(now.state())


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
        merge_states([batches.state() for batches in rows])


def test_rows_of_another_batch_are_refused():
    for rows in (range(9), range(3, 3), range(0, 8, 2)):
        with pytest.raises(ValueError, match="expected one or more of the 8 rows"):
            make("rows", rows=rows)


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
