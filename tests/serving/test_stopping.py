"""SIGTERM lets what has begun end; another signal, and Ctrl-C, do not wait."""

import signal
from types import SimpleNamespace

import pytest

from recurrentgemma.generation.sampling import Sampling
from serving.engine.request import GenerationRequest
from serving.engine.thread import EngineUnavailable, Job
from serving.stopping import Stopping


class Server(SimpleNamespace):
    """What of uvicorn's is asked."""

    def handle_exit(self, sig, frame):
        self.should_exit = True


@pytest.fixture
def server():
    return Server(should_exit=False)


@pytest.fixture
def begin(engine_thread, wait_until):
    """`begin(tokens)`: an answer of so many tokens has begun; what it has told so far."""

    def submit(tokens: int) -> list:
        request = GenerationRequest(prompt=[65], sampling=Sampling(max_tokens=tokens))
        events = []
        engine_thread.submit(Job([request], lambda i, event: events.append(event)))
        return events

    return submit


def cut_short(events: list) -> bool:
    """Its last event says that the engine is gone; it may not have told any yet."""
    return bool(events) and isinstance(events[-1], EngineUnavailable)


def test_what_has_begun_ends(server, engine_thread, fake_engine, begin, wait_until):
    fake_engine.gate.clear()
    events = begin(50)
    stopping = Stopping(server, engine_thread, drain_s=30)
    stopping.signalled(signal.SIGTERM, None)
    with pytest.raises(EngineUnavailable, match="takes nothing new"):
        begin(1)
    assert not server.should_exit
    fake_engine.gate.set()
    wait_until(lambda: server.should_exit)
    assert stopping.drained
    assert events[-1].finish_reason == "length"
    assert events[-1].num_generated == 50


def test_but_not_for_longer_than_it_may(server, engine_thread, begin, wait_until):
    events = begin(10**9)
    stopping = Stopping(server, engine_thread, drain_s=0.1)
    stopping.signalled(signal.SIGTERM, None)
    wait_until(lambda: server.should_exit and cut_short(events))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(server, engine_thread, begin, wait_until, second):
    events = begin(10**9)
    stopping = Stopping(server, engine_thread, drain_s=10**6)
    stopping.signalled(signal.SIGTERM, None)
    stopping.signalled(second, None)
    assert server.should_exit
    wait_until(lambda: cut_short(events))
    assert not stopping.drained


@pytest.mark.parametrize(("sig", "drain_s"), [(signal.SIGINT, 9), (signal.SIGTERM, 0)])
def test_ctrl_c_and_no_drain_end_at_once(server, engine_thread, sig, drain_s):
    Stopping(server, engine_thread, drain_s=drain_s).signalled(sig, None)
    assert server.should_exit
