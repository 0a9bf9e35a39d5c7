"""What answers see while a long prompt is read."""

import pytest

from serving.bench.stall import Piece, Window, main, seen


def test_what_is_seen_in_windows():
    pieces = [Piece(at / 10, 2) for at in range(20)] + [Piece(2 + at / 2, 1) for at in range(5)]
    alone = seen([pieces], [Window(0, 1.95)])
    assert alone.per_token == pytest.approx(50)
    assert (alone.between_p50, alone.between_most) == pytest.approx((100, 100))
    beside = seen([pieces], [Window(1.95, 9)])
    assert (beside.per_token, beside.between_most) == pytest.approx((500, 500))


def test_the_measurement(url, capsys):
    options = ["--tokens", "50", "--beside", "1", "--alone", "0.1", "--vocabulary", "100"]
    assert main([url, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["alone", "beside"]
    assert "times as long a token" in lines[3]
