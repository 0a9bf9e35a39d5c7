# SPDX-License-Identifier: Apache-2.0
"""The demo does everything once, finds a taken port before it trains, and hands over to serve."""

import dataclasses
import socket

import pytest

import griffin_lm
from training import build, demo, inputs
from training.named_runs import RUNS


@pytest.fixture
def quick(small, tmp_path, monkeypatch):
    """The demo with a run of seconds, and a record of what it hands on to the command line."""
    config = dataclasses.replace(small, steps=6)
    monkeypatch.setattr(demo, "demo", lambda text: dataclasses.replace(config, text=text))
    served = []
    monkeypatch.setattr(griffin_lm, "run", lambda argv: served.append(argv) or 0)
    return served


def test_the_second_run_skips_what_is_done(quick, song, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "demo"
    argv = ["--no-serve", "--text", str(song), "--run-dir", str(run_dir)]
    assert demo.main(argv) == 0
    first = capsys.readouterr().out
    sample = (run_dir / demo.SAMPLE).read_text()
    assert sample in first
    assert "held-out text:" in first.splitlines()[-1]
    assert first.splitlines()[-1].endswith("bits per byte")

    def never(*_args, **_options):
        raise AssertionError("done again")

    for module, name in ((build, "make_train_step"), (inputs, "score_documents"), (demo, "load")):
        monkeypatch.setattr(module, name, never)
    assert demo.main(argv) == 0
    second = capsys.readouterr().out
    assert "is trained: step 6 of 6" in second
    assert second.splitlines()[-1] == first.splitlines()[-1]
    assert quick == []


def test_it_serves_what_it_has_trained(quick, song, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run_dir = tmp_path / "demo"
    argv = ["--text", str(song), "--run-dir", str(run_dir), "--port", str(port)]
    assert demo.main(argv) == 0
    assert quick == [["serve", str(run_dir), "--port", str(port)]]


def test_an_interrupted_demo_does_not_go_on_to_serve(quick, song, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "train", lambda *_: False)
    assert demo.main(["--port", "0", "--text", str(song)]) == 0
    assert quick == []


def test_a_port_in_use_is_found_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("it trained"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert (
            griffin_lm.main(["demo", "--port", str(port), "--run-dir", str(tmp_path / "demo")]) == 2
        )
    assert f"error: port {port} is already in use" in capsys.readouterr().err
    assert griffin_lm.main(["demo", "--port", "99999"]) == 2
    assert "--port 99999: expected 0" in capsys.readouterr().err


def test_the_demo_is_the_named_run():
    assert demo.demo is RUNS["demo"]
