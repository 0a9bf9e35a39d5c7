"""A session goes on where it was, whatever happened to it in between."""

import subprocess
import sys
import threading
from typing import Any, cast

import jax
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import GenerationRequest
from serving.features.sessions import (
    NoSuchSession,
    SessionBusy,
    SessionDamaged,
    SessionExists,
    Sessions,
    prompt_after,
)

TURNS = ["It was the best of times, " * 9, "it was", " the worst of times", ", it was " * 20]


def turn(engine, lease, text: str, beside=(), **options) -> tuple[list[int], list[float]]:
    """The tokens of an answer and their log-probabilities; `beside` are other requests."""
    prompt = np.array(prompt_after(engine.lm.tokenizer, lease.point, text), np.int32)
    sampling = Sampling(max_tokens=20, temperature=1.0, ignore_eos=True, **options)
    request = GenerationRequest(prompt=prompt, sampling=sampling, logprobs=0, before=lease.point)
    others = [engine.submit(other) for other in beside]
    id = engine.submit(request)
    tokens, logps, state = [], [], None
    while engine.busy:
        for event in engine.step():
            if event.request_id == id:
                tokens += event.token_ids
                logps += [score.logprob for score in event.scores]
                state = event.state
            else:
                assert event.request_id in others
    lease.answered(request, state, tokens)
    return tokens, logps


@pytest.fixture
def sessions(griffin, tmp_path) -> Sessions:
    return Sessions(tmp_path / "sessions", griffin.lm, most=4)


def test_a_conversation_is_the_librarys_session(griffin, sessions, tmp_path):
    """And goes on there: the files are the same."""
    library = griffin.lm.session()
    for seed, text in enumerate(TURNS):
        with sessions.lease("a") as lease:
            tokens, _ = turn(griffin, lease, text, seed=seed)
        library.read(text)
        options = {"max_tokens": 20, "temperature": 1.0, "ignore_eos": True, "seed": seed}
        assert library.complete("", **options).tokens == tokens
    other = griffin.lm.session(tmp_path / "sessions" / "a.session")
    assert other.tokens_seen == library.tokens_seen == sessions.point("a").count
    assert other.generate(" and", max_tokens=9) == library.generate(" and", max_tokens=9)


def test_restored_at_any_turn_it_is_the_same_bit_for_bit(griffin, sessions, tmp_path):
    """By another server, with others beside it or alone, from a fork or not."""
    prompt = np.arange(1, 200, dtype=np.int32)
    beside = [GenerationRequest(prompt=prompt, sampling=Sampling(max_tokens=30))] * 2
    straight = []
    with sessions.lease("straight") as lease:
        for seed, text in enumerate(TURNS):
            straight.append(turn(griffin, lease, text, seed=seed))
    for seed, text in enumerate(TURNS):
        again = Sessions(tmp_path / "sessions", griffin.lm)
        with again.lease("restored") as lease:
            assert turn(griffin, lease, text, beside, seed=seed) == straight[seed]
        again.fork("restored", f"fork{seed}")
    for seed in range(3):
        with sessions.lease(f"fork{seed}") as lease:
            assert turn(griffin, lease, TURNS[seed + 1], seed=seed + 1) == straight[seed + 1]
    jax.tree.map(
        np.testing.assert_array_equal,
        sessions.point("straight").state,
        sessions.point("restored").state,
    )


def test_a_turn_that_is_given_up_leaves_it_where_it_was(griffin, sessions):
    with sessions.lease("a") as lease:
        turn(griffin, lease, TURNS[0], seed=1)
    before = sessions.point("a")
    with sessions.lease("a") as lease:
        assert lease.point.count == before.count
    assert sessions.point("a").unread == before.unread


def test_names_and_what_is_known_of_them(griffin, sessions):
    assert sessions.names() == []
    for name in ("b", "a.1"):
        with sessions.lease(name) as lease:
            turn(griffin, lease, "x", seed=1)
            assert sessions.info(name).busy
    assert sessions.names() == ["a.1", "b"]
    sizes = {sessions.info(name).bytes for name in sessions.names()}
    with sessions.lease("b") as lease:
        turn(griffin, lease, TURNS[0] * 30, seed=1)
    assert (
        abs(sessions.info("b").bytes - max(sizes)) < 4500
    )  # its last 1,024 tokens, and no state grows
    assert not sessions.info("b").busy
    sessions.delete("b")
    assert sessions.names() == ["a.1"]


def test_one_at_a_time(griffin, sessions):
    with sessions.lease("a") as lease:
        turn(griffin, lease, "x", seed=1)
        for call in (
            lambda: sessions.lease("a").__enter__(),
            lambda: sessions.delete("a"),
            lambda: sessions.fork("a", "b"),
        ):
            with pytest.raises(SessionBusy, match="session 'a' is answering"):
                call()
    seen, barrier = [], threading.Barrier(8)

    def compete():
        barrier.wait()
        try:
            with sessions.lease("a"):
                seen.append("in")
                assert seen.count("in") - seen.count("out") == 1
                seen.append("out")
        except SessionBusy:
            pass

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "in" in seen


OTHER = """
import sys
from pathlib import Path
from serving.features.name_locks import NameLocks
locks = NameLocks(Path(sys.argv[1]))
assert locks.take("a")
assert locks.take("/")
print(flush=True)
sys.stdin.read()
"""


def test_another_server_on_the_same_folder_holds_it(sessions, tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path / "sessions/.locks")]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(SessionBusy, match="session 'a' is answering a request on another serv"):
            sessions.lease("a").__enter__()
        with sessions.lease("b"):
            pass
        with pytest.raises(SessionBusy, match=r"another server has the sessions in \S+ learn"):
            Sessions(tmp_path / "sessions", sessions._lm, adaptations=cast(Any, object()))
        other.kill()
    with sessions.lease("a"):
        pass
    assert sessions.names() == []


def test_a_damaged_file_is_refused_and_the_others_live_on(griffin, sessions, tmp_path):
    for name in ("a", "b"):
        with sessions.lease(name) as lease:
            turn(griffin, lease, "x", seed=1)
    path = tmp_path / "sessions" / "a.session"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SessionDamaged, match=r"session .a.: .* is damaged"):
        sessions.lease("a").__enter__()
    with sessions.lease("b") as lease:
        turn(griffin, lease, "y", seed=2)
    sessions.delete("a")
    assert sessions.names() == ["b"]


def test_an_empty_one_and_a_name_that_is_taken(griffin, sessions):
    sessions.create("a")
    assert sessions.point("a").count == 0
    with pytest.raises(SessionExists, match="there is a session 'a'"):
        sessions.create("a")
    with sessions.lease("a") as lease, sessions.lease("b") as other:
        assert turn(griffin, lease, "x", seed=1) == turn(griffin, other, "x", seed=1)


@pytest.mark.parametrize("call", [lambda s: s.create("b"), lambda s: s.fork("a", "b")])
def test_a_name_that_is_taken_at_the_same_time(sessions, monkeypatch, call):
    """By another server, say: what that has answered stays."""
    sessions.create("a")
    lease, point = sessions.lease, sessions.point("a")._replace(count=5)

    def late(name: str, **options):
        if name == "b":
            sessions.write("b", point)
        return lease(name, **options)

    monkeypatch.setattr(sessions, "lease", late)
    with pytest.raises(SessionExists, match="there is a session 'b'"):
        call(sessions)
    assert sessions.point("b").count == 5


def test_a_piece_of_a_token_is_held_as_text(griffin, sessions):
    """What a stop string has cut off is not in it, and what was told is."""
    with sessions.lease("a") as lease:
        request = GenerationRequest(prompt=[258, 65], sampling=Sampling())
        state = griffin.lm.session().state
        lease.answered(request, state, [66, 67], text="BCD")
        assert lease.point.unread == (65, 66, 67)
        assert lease.point.held.text == "D"
    assert prompt_after(griffin.lm.tokenizer, sessions.point("a"), "E") == [68, 69]


def test_what_is_refused(griffin, sessions):
    for name in ("", "../a", "a/b", ".hidden", "a" * 101, "é", "a\n"):
        with pytest.raises(UserError, match="is no name of a session"):
            sessions.info(name)
    for call in (
        lambda: sessions.point("a"),
        lambda: sessions.delete("a"),
        lambda: sessions.fork("a", "b"),
        lambda: sessions.lease("a", new=False).__enter__(),
    ):
        with pytest.raises(NoSuchSession, match="there is no session 'a'"):
            call()
    for number in range(4):
        with sessions.lease(str(number)) as lease:
            turn(griffin, lease, "x", seed=1)
    with pytest.raises(UserError, match="there are 4 sessions, which is the most"):
        sessions.lease("5").__enter__()
    with pytest.raises(UserError, match="there is a session '1'"):
        sessions.fork("0", "1")
