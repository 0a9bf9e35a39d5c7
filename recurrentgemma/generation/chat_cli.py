# SPDX-License-Identifier: Apache-2.0
"""`griffin chat`: a chat on the terminal, over a session that reads no turn twice."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling

if TYPE_CHECKING:
    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.generation.session import Session

EXAMPLES = """Chat with a model on the terminal.

A line is a message. Lines that begin with a slash are commands: /reset, /save FILE, /load FILE,
/help, /quit; a message that begins with a slash is written with two. Ctrl-C ends an answer,
Ctrl-D the chat. Lines from a pipe are answered in turn, and the first mistake ends it.

examples:
  griffin chat google/recurrentgemma-2b-it
  griffin chat runs/mine --session yesterday.session --temperature 0.7
  printf 'Name three rivers.\\nWhich is the longest?\\n' | griffin chat runs/mine
"""
COMMANDS = """/reset      forget everything and begin anew
/save FILE  keep the chat; /load FILE goes on from there
/load FILE  go on with a chat that was saved
/quit       end (or Ctrl-D); Ctrl-C ends an answer
//...       a message that begins with a slash"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    session: str | None = None
    """Go on with the chat that /save wrote to this file."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(
        default_factory=lambda: Sampling(max_tokens=2048)
    )
    chat_template: str | None = None
    """gemma, or a file with a Jinja template; by default the checkpoint's own, else Gemma's
    format."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""


def main(argv: list[str]) -> int:
    """Chat. Raises UserError or OSError for what a user got wrong before the first message, or
    in a pipe."""
    arguments = tyro.cli(ChatArguments, prog="griffin chat", description=EXAMPLES, args=argv)
    from recurrentgemma.generation.lm import load  # here: JAX takes a second to import
    from recurrentgemma.text.chat import chat_format, use_template

    lm = load(arguments.path, arguments.config, dtype=arguments.dtype)
    if lm.tokenizer is None:
        raise UserError(f"{arguments.path} has no tokenizer, so it cannot read text")
    if arguments.chat_template is not None:
        use_template(lm.tokenizer, arguments.chat_template)
    chat_format(lm.tokenizer)  # a model without one is refused now
    chat = Chat(lm, arguments.sampling)
    if arguments.session is not None:
        chat.load(arguments.session)
    if sys.stdin.isatty():
        return _at_a_terminal(chat)
    for line in _piped_lines():
        if not chat.take(line):
            break
    return 0


class Chat:
    """A session and the lines that are written to it. Answers alone go to the standard output."""

    def __init__(self, lm: "LanguageModel", sampling: Sampling):
        self.lm, self.sampling = lm, sampling
        self.session: Session = lm.session()

    def take(self, line: str) -> bool:
        """Obey or answer a line; whether the chat goes on after it.

        Raises UserError or OSError, after which the session is as it was.
        """
        line = line.strip()
        if line.startswith("/") and not line.startswith("//"):
            return self._obey(*line.split(maxsplit=1))
        if line:
            message = line.removeprefix("/")
            try:
                for piece in self.session.stream_chat(message, sampling=self.sampling):
                    print(piece, end="", flush=True)
            finally:
                print(flush=True)
        return True

    def load(self, file: str) -> None:
        self.session = self.lm.session(Path(file).expanduser())
        turns = len(self.session.messages)
        _note(f"{file}: {turns} messages, {self.session.tokens_seen:,} tokens seen")

    def _obey(self, command: str, file: str = "") -> bool:
        takes_file = command in ("/save", "/load")
        if command not in ("/reset", "/save", "/load", "/help", "/quit"):
            raise UserError(
                f"{command!r} is no command: expected /reset, /save FILE, /load FILE, /help or "
                "/quit; a message that begins with a slash is written with two"
            )
        if takes_file != bool(file):
            expected = f"{command} FILE" if takes_file else f"{command} alone"
            raise UserError(f"{f'{command} {file}'.strip()!r}: expected {expected}")
        if command == "/reset":
            self.session = self.lm.session()
        elif command == "/save":
            self.session.save(Path(file).expanduser())
            _note(f"saved: {file}")
        elif command == "/load":
            self.load(file)
        elif command == "/help":
            _note(COMMANDS)
        return command != "/quit"


def _at_a_terminal(chat: Chat) -> int:
    """Mistakes are shown, and the chat goes on."""
    import readline  # noqa: F401  so that input() has a history and an editable line

    _note("A line is a message; /help shows the commands.")
    while True:
        try:
            if not chat.take(input("> ")):
                return 0
        except EOFError:
            _note("")
            return 0
        except KeyboardInterrupt:
            _note("\nstopped; /quit or Ctrl-D ends the chat")
        except (UserError, OSError) as error:
            _note(f"error: {error}")


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"line {number} of the standard input is not UTF-8: {error}; convert it first"
            ) from None


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
