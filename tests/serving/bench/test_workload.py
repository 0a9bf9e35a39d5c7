"""What a load asks for."""

from itertools import islice

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from serving.bench.workload import (
    Lengths,
    Scale,
    Workload,
    arrivals,
    calibrated,
    lengths,
    read_lines,
    words,
)


@pytest.mark.parametrize(
    ("text", "low", "high", "mean"),
    [("128", 128, 128, 128), ("16-32", 16, 32, 24), ("exp:100", 1, 10_000, 100)],
)
def test_lengths(text, low, high, mean):
    rng = np.random.default_rng(0)
    drawn = [lengths(text, "--prompt").draw(rng) for _ in range(4000)]
    assert low <= min(drawn) <= max(drawn) <= high
    assert np.mean(drawn) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("text", ["", "0", "32-16", "-3", "exp:1-2x", "exp:", "normal:3", "1.5"])
def test_lengths_that_are_none(text):
    with pytest.raises(UserError, match="--answer"):
        lengths(text, "--answer")


def test_a_prompt_has_as_many_tokens_as_asked_for():
    def count(text: str) -> int:  # a server with 3 tokens around a chat, and one of 4 characters
        return 3 + -(-len(text) // 4)

    rng = np.random.default_rng(0)
    short, long = words(200, rng), words(1000, rng)
    scale = calibrated((200, count(short)), (1000, count(long)))
    for tokens in (4, 50, 1000):
        assert count(words(scale.characters(tokens), rng)) == tokens
    assert Scale(10, 0.5).characters(1) == 1  # there is always something to ask


def test_requests_are_those_of_the_seed():
    workload = Workload(
        api="chat",
        prompt=Lengths(8, 40),
        answer=Lengths(1, 9),
        scale=Scale(0, 1),
        fields={"stream": True},
    )
    first = list(islice(workload.bodies(3), 20))
    assert first == list(islice(workload.bodies(3), 20))
    assert first != list(islice(workload.bodies(4), 20))
    texts = [body["messages"][0]["content"] for body in first]
    assert all(8 <= len(text) <= 40 for text in texts)
    assert all(1 <= body["max_tokens"] <= 9 and body["stream"] for body in first)
    assert len({text[:8] for text in texts}) > 15  # nothing that a prefix cache would know


def test_arrivals_are_a_poisson_process():
    times = np.array(list(islice(arrivals(50, seed=1), 5000)))
    waits = np.diff(times)
    assert np.mean(waits) == pytest.approx(0.02, rel=0.05)
    assert np.std(waits) == pytest.approx(0.02, rel=0.05)
    assert (waits > 0).all()


def test_requests_of_a_file(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 3}\n\n{"prompt": "b", "top_p": 0.5}\n')
    workload = Workload(
        api="completions",
        prompt=Lengths(1, 1),
        answer=Lengths(7, 7),
        scale=Scale(0, 1),
        fields={},
        lines=read_lines(path, "completions"),
    )
    assert list(islice(workload.bodies(0), 3)) == [
        {"prompt": "a", "max_tokens": 3},
        {"prompt": "b", "max_tokens": 7, "top_p": 0.5},
        {"prompt": "a", "max_tokens": 3},
    ]
    for text, message in [
        ('{"prompt": "a"}\n{"messages": []}\n', "line 2: expected an object with 'prompt'"),
        ('{"prompt": "a"}\n{"prompt"\n', "line 2: not JSON"),
        ("\n", "has no requests"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_lines(path, "completions")
