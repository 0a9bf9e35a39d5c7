"""What answers see while a long prompt is read."""

import asyncio
import time

import httpx
import pytest

from recurrentgemma.errors import UserError
from serving.bench.stall import Piece, StallArguments, Window, _around, _measure, main, seen


def test_what_is_seen_in_windows():
    pieces = [Piece(at / 10, 2) for at in range(20)] + [Piece(2 + at / 2, 1) for at in range(5)]
    alone = seen([pieces], [[Window(0, 1.95)]])
    assert alone.per_token == pytest.approx(50)
    assert (alone.between_p50, alone.between_most) == pytest.approx((100, 100))
    beside = seen([pieces], [[Window(1.95, 9)]])
    assert (beside.per_token, beside.between_most) == pytest.approx((500, 500))


def test_a_wait_over_the_ends_of_a_window_is_seen_in_it():
    pieces = [Piece(0, 1), Piece(1, 1), Piece(4, 1), Piece(5, 1)]
    assert _around(pieces, Window(2, 3)) == (1, 4)
    assert _around(pieces, Window(1, 4)) == (0, 4)
    assert seen([pieces], [[_around(pieces, Window(2, 3))]]).between_most == pytest.approx(3000)


def test_the_measurement(url, fake_engine, monkeypatch, capsys):
    step = fake_engine.step
    monkeypatch.setattr(fake_engine, "step", lambda: time.sleep(0.01) or step())  # can be read
    options = ["--tokens", "50", "--beside", "1", "--alone", "0.1", "--vocabulary", "100"]
    assert main([url, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["alone", "beside"]
    assert "times as long a token" in lines[3]


@pytest.mark.parametrize("last", ['data: {"error": {"message": "too slow"}}', "data: [DONE]"])
def test_an_answer_that_the_server_ends(last):
    body = 'data: {"choices": [{"token_ids": [1, 2]}]}\n\n' + last

    async def measured() -> None:
        answering = httpx.MockTransport(lambda request: httpx.Response(200, text=body))
        async with httpx.AsyncClient(base_url="http://test", transport=answering) as client:
            await _measure(client, StallArguments(url="", beside=1))

    with pytest.raises(UserError, match=f"ended an answer that has no end, with .{last[:6]}"):
        asyncio.run(measured())
