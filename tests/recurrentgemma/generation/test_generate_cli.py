# SPDX-License-Identifier: Apache-2.0
"""`griffin generate`: what it prints and what it refuses."""

import io

import pytest

from recurrentgemma.generation.generate_cli import main


def test_the_command_prints_the_text(lm, run_dir, capsys, monkeypatch):
    options = ["--max-tokens", "9", "--temperature", "1", "--seed", "3"]
    expected = lm.generate("Once", max_tokens=9, temperature=1.0, seed=3) + "\n"
    assert main([str(run_dir), "Once", *options]) == 0
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(
        "recurrentgemma.generation.lm.load", lambda path, config, dtype: lm
    )  # it is compiled
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Once")))
    main([str(run_dir), "-", "--stop", expected[3:5], "never", *options])
    assert capsys.readouterr().out == expected[: expected.index(expected[3:5])] + "\n"
    main([str(run_dir), "Hi", "--chat", *options])
    chat = lm.chat([{"role": "user", "content": "Hi"}], max_tokens=9, temperature=1.0, seed=3)
    assert capsys.readouterr().out == chat + "\n"


def test_the_command_refuses(run_dir, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main([str(run_dir), "Once", "--top-p", "7"])
    assert "top_p is 7.0: expected a number over 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such"):
        main([str(run_dir / "missing"), "Once"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(ValueError, match="not UTF-8"):
        main([str(run_dir), "-"])
    with pytest.raises(SystemExit):
        main([str(run_dir), "Once", "--temprature", "1"])
    assert "--temperature" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "griffin generate runs/demo" in capsys.readouterr().out
