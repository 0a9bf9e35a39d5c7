"""The thread that owns the engine: what it refuses, whom it tells, and how it ends."""

import queue

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import GenerationRequest
from serving.engine.thread import EngineThread, EngineUnavailable, Job, QueueFull


def job(*prompts: str, max_tokens: int = 2) -> tuple[Job, queue.Queue]:
    """A job, and the (index, event) that it is told."""
    told: queue.Queue = queue.Queue()
    requests = [
        GenerationRequest(prompt=list(prompt.encode()), sampling=Sampling(max_tokens=max_tokens))
        for prompt in prompts
    ]
    return Job(requests, lambda index, event: told.put((index, event))), told


def text(told: queue.Queue, count: int) -> list[str]:
    """The text of each of `count` sequences, once all have ended."""
    texts, ended = [""] * count, 0
    while ended < count:
        index, event = told.get(timeout=30)
        texts[index] += event.text
        ended += event.finish_reason is not None
    return texts


def test_every_sequence_hears_of_its_own_events(engine_thread):
    first, told_first = job("ab", "c")
    second, told_second = job("d", max_tokens=3)
    engine_thread.submit(first)
    engine_thread.submit(second)
    assert text(told_first, 2) == ["ab", "cc"]
    assert text(told_second, 1) == ["ddd"]
    assert engine_thread.unfinished == 0


def test_a_job_is_queued_whole_or_not_at_all(engine_thread, fake_engine):
    fake_engine.gate.clear()
    three, told = job("a", "b", "c")
    engine_thread.submit(three)
    with pytest.raises(QueueFull, match="3 of 4 places are taken and this request needs 2"):
        engine_thread.submit(job("d", "e")[0])
    assert engine_thread.unfinished == 3
    fake_engine.gate.set()
    assert text(told, 3) == ["aa", "bb", "cc"]


def test_cancelling_frees_what_is_left(engine_thread, fake_engine, wait_until):
    endless, told = job("a", "b", "c", max_tokens=10**9)
    engine_thread.submit(endless)
    told.get(timeout=30)
    engine_thread.cancel(endless)
    wait_until(lambda: engine_thread.unfinished == 0 and not fake_engine.live)
    engine_thread.cancel(endless)  # changes nothing
    last, told = job("z")
    engine_thread.submit(last)
    assert text(told, 1) == ["zz"]


def test_closing_leaves_the_engine_idle(engine_thread, fake_engine):
    endless, told = job("ab", max_tokens=10**6)
    engine_thread.submit(endless)
    told.get(timeout=30)
    assert engine_thread.close(timeout_s=30)
    assert fake_engine.live == {}
    while not isinstance(last := told.get(timeout=30)[1], EngineUnavailable):
        pass
    assert "shutting down" in str(last)


def test_an_engine_that_fails_while_it_is_closed_is_told_too(
    engine_thread, fake_engine, monkeypatch
):
    endless, told = job("ab", max_tokens=10**6)
    engine_thread.submit(endless)
    told.get(timeout=30)
    monkeypatch.setattr(fake_engine, "cancel", lambda id: 1 / 0)
    assert engine_thread.close(timeout_s=30)
    assert engine_thread.status == "failed"
    while not isinstance(told.get(timeout=30)[1], EngineUnavailable):
        pass


def test_an_engine_that_fails_when_asked_is_told_too(engine_thread, fake_engine, monkeypatch):
    def broken(requests):
        raise RuntimeError("no memory for a queue")

    monkeypatch.setattr(fake_engine, "submit_all", broken)
    victim, told = job("a")
    engine_thread.submit(victim)
    assert isinstance(told.get(timeout=30)[1], EngineUnavailable)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("the device is gone"), "see the server's log"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"), "with fewer --slots"),
    ],
)
def test_what_the_engine_dies_of_is_told(engine_thread, fake_engine, monkeypatch, error, message):
    def broken():
        raise error

    monkeypatch.setattr(fake_engine, "step", broken)
    victim, told = job("a")
    engine_thread.submit(victim)
    _, event = told.get(timeout=30)
    assert isinstance(event, EngineUnavailable)
    assert message in str(event)
    assert engine_thread.error is error
    with pytest.raises(EngineUnavailable, match=message):
        engine_thread.submit(victim)


def test_a_failed_load_is_kept(running_thread):
    def build():
        raise ValueError("no such checkpoint")

    with running_thread(build, 1) as thread:
        assert thread.status == "failed"
        assert str(thread.error) == "no such checkpoint"


def test_no_room_at_all():
    with pytest.raises(UserError, match="max_waiting is -1"):
        EngineThread(lambda: None, max_waiting=-1)  # type: ignore[arg-type, return-value]
