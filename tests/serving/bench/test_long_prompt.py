"""The measurement runs against a server, and tells what the server refuses."""

import pytest

from serving.bench.long_prompt import main, time_to_first_token


def test_the_four_times(url, capsys):
    assert main([url, "--tokens", "200", "--delay", "0.01", "--requests", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(float(line.split()[-2]) > 0 for line in lines)


def test_a_server_that_refuses(url):
    with pytest.raises(OSError, match=r"answers 400: .*prompt is empty"):
        time_to_first_token(url, 0)


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--tokens" in capsys.readouterr().out
