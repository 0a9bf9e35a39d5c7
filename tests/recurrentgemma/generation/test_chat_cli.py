# SPDX-License-Identifier: Apache-2.0
"""`griffin chat`: what it answers from a pipe and at a terminal, its commands, what it refuses."""

import io
import sys
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation import chat_cli
from recurrentgemma.generation.chat_cli import Chat, main
from recurrentgemma.generation.sampling import Sampling
from tests.recurrentgemma.generation.small_models import CONFIG, lm_of

SAMPLING = Sampling(max_tokens=7, temperature=1.0, seed=3)
OPTIONS = ["--max-tokens", "7", "--temperature", "1", "--seed", "3"]


@pytest.fixture(autouse=True)
def _here(lm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with a model that is compiled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recurrentgemma.generation.lm.load", lambda path, config, dtype: lm)


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def answers(lm, *messages: str) -> list[str]:
    session = lm.session()
    return [session.chat(message, sampling=SAMPLING) for message in messages]


def test_lines_of_a_pipe_are_one_chat(lm, capsys, monkeypatch):
    first, second, path = answers(lm, "Hi", "Why?", "/tmp is full")
    pipe(monkeypatch, b"Hi\n\n  Why?  \n//tmp is full\n/reset\nHi\n/save anew")
    assert main(["PATH", *OPTIONS]) == 0
    assert capsys.readouterr().out == "".join(f"{a}\n" for a in (first, second, path, first))
    assert len(lm.session("anew").messages) == 2


def test_a_chat_is_saved_and_goes_on(lm, capsys, monkeypatch):
    first, second, third = answers(lm, "Hi", "Why?", "So?")
    pipe(monkeypatch, b"Hi\n/save my chat\nWhy?\n/load my chat\nWhy?\n/save my chat\n/quit\nSo?\n")
    assert main(["PATH", *OPTIONS]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{first}\n{second}\n{second}\n"
    assert shown.err.startswith("saved: my chat\nmy chat: 2 messages, ")
    assert shown.err.endswith("tokens seen\nsaved: my chat\n")
    pipe(monkeypatch, b"So?\n")
    assert main(["PATH", "--session", "my chat", *OPTIONS]) == 0
    assert capsys.readouterr().out == f"{third}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"/save", "'/save': expected /save FILE"),
        (b"/load", "'/load': expected /load FILE"),
        (b"/quit now", "'/quit now': expected /quit alone"),
        (b"/exit", "'/exit' is no command: expected /reset, .*; a message that begins"),
        (b"/load nothing", "there is no saved session nothing"),
        (b"/save missing/chat", "no directory missing"),
        (b"\xff", "line 2 of the standard input is not UTF-8"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it(monkeypatch, line, expected):
    pipe(monkeypatch, b"/help\n" + line + b"\nHi\n")
    with pytest.raises(UserError, match=expected):
        main(["PATH"])


def test_a_model_that_cannot_chat_is_refused_before_the_first_line(lm, capsys, monkeypatch):
    pipe(monkeypatch, b"Hi\n")
    bare = lm_of("griffin", None, vocab_size=CONFIG.vocab_size)
    monkeypatch.setattr("recurrentgemma.generation.lm.load", lambda path, config, dtype: bare)
    with pytest.raises(UserError, match="PATH has no tokenizer"):
        main(["PATH"])


def test_at_a_terminal_a_mistake_or_ctrl_c_ends_no_chat(lm, capsys, monkeypatch):
    first, second = answers(lm, "Hi", "Why?")
    lines = iter(["/nonsense", "/load nothing", "Hi", KeyboardInterrupt(), "/help", "Why?"])

    def typed(prompt: str) -> str:
        line = next(lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    chat = Chat(lm, SAMPLING)
    assert chat_cli._at_a_terminal(chat) == 0
    shown = capsys.readouterr()
    notes = ["A line i", "error: '", "error: t", "", "stopped;"]
    assert [line[:8] for line in shown.err.splitlines()][:5] == notes
    assert shown.out == f"{first}\n{second}\n"


def test_ctrl_c_ends_an_answer_where_it_is(lm, capsys, monkeypatch):
    """The chat goes on behind what was shown, and behind nothing where nothing was."""
    chat = Chat(lm, Sampling(max_tokens=40, temperature=1.0, seed=4))
    whole = lm.session().chat("Hi", sampling=chat.sampling)
    real, shown = print, []

    def one_piece(*words: str, **options) -> None:
        if shown:
            raise KeyboardInterrupt
        shown.append(words[0])
        real(*words, **options)

    monkeypatch.setattr("builtins.print", one_piece)
    with pytest.raises(KeyboardInterrupt):
        chat.take("Hi")
    monkeypatch.undo()
    user, assistant = chat.session.messages
    assert user == {"role": "user", "content": "Hi"}
    assert whole.startswith(assistant["content"])
    assert 0 < len(assistant["content"]) < len(whole)
    chat.session.chat("Why?", sampling=SAMPLING)
    assert len(chat.session.messages) == 4
