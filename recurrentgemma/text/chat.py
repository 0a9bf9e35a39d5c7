# SPDX-License-Identifier: Apache-2.0
"""Chats to tokens, for generation and for training: by the checkpoint's own template, or Gemma's.

    chat_format(tokenizer).encode([{"role": "user", "content": "Hi"}])

A tokenizer that came with a chat template writes chats by it (chat_template.py), any other that has
Gemma's turn tokens in Gemma's format (gemma_chat.py). The same format writes them everywhere, so
the same turns have the same tokens in training, in `LanguageModel.chat` and in the server.
"""

import datetime
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurrentgemma.errors import TemplateError, UserError
from recurrentgemma.text.chat_encoding import END_OF_TURN as END_OF_TURN
from recurrentgemma.text.chat_encoding import START_OF_TURN as START_OF_TURN
from recurrentgemma.text.chat_messages import ANSWERS, Message
from recurrentgemma.text.chat_messages import check_text as check_text
from recurrentgemma.text.gemma_chat import GEMMA as GEMMA
from recurrentgemma.text.gemma_chat import GEMMA_TEMPLATE, GemmaChat
from recurrentgemma.text.gemma_chat import format_chat as format_chat
from recurrentgemma.text.tokenizer_files import LEGACY_TEMPLATE, ROLES, TEMPLATE, read_text

if TYPE_CHECKING:
    from recurrentgemma.text.chat_template import TemplateChat
    from recurrentgemma.text.template_sandbox import Template
    from recurrentgemma.text.tokenizer import Tokenizer

AUTO = "auto"  # as a template: the tokenizer's own, else Gemma's format


class ChatFormat:
    """How one tokenizer's chats are written.

    name: "gemma", or a name of the template by its content. shown: "gemma", or where the template
    is from.
    stop_ids: the tokens that end an answer in it.
    """

    def __init__(self, tokenizer: "Tokenizer", writer: "GemmaChat | TemplateChat") -> None:
        self._writer = writer
        self._stop_ids = tokenizer.stop_ids
        self.name, self.shown = writer.name, writer.shown

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._writer.ends

    def check(self) -> None:
        """Raises TemplateError: the template has a mistake for which it writes no chat, not even
        one short message."""
        try:
            self.encode([{"role": "user", "content": "a"}])
        except TemplateError:
            raise
        except UserError:
            return  # it may ask for another message first, with raise_exception

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continues: bool = False,
        now: datetime.datetime | None = None,
    ) -> list[int]:
        """The tokens that ask for the next turn, from which no message can forge a turn.

        A token ends where an answer begins, in the turns that are over, too: there the model began
        to generate. So the tokens of a chat are those of the chat before and more, if the template
        writes it so.

        tools, variables: for a template that reads such; now: for one that reads the clock.
        continues: the last message is an
        assistant's, and the model is to go on with it.

        `Tokenizer.encode` reads a literal control token, such as `<end_of_turn>`, as that token.
        Inside a message it is what somebody wrote, so there it is encoded as plain characters.
        Raises UserError, which names the field, for messages that cannot be written.
        """
        if continues and (not messages or messages[-1].get("role") not in ANSWERS):
            raise UserError(
                "the last message is not an assistant's, so there is nothing to go on with",
                field="messages",
            )
        chat = self._writer.prompt(
            messages, tools=tools, variables=variables, continues=continues, now=now
        )
        return self._writer.encoder.encode(chat)[0]

    def encode_answers(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        last_only: bool = False,
        now: datetime.datetime | None = None,
    ) -> tuple[list[int], list[bool]]:
        """The tokens of a chat up to its last answer, and which of them are the model's to write:
        each assistant turn with the token that ends it; last_only: the last of them.

        Before each answer stands what `encode` gives for the messages so far: what a model learns
        from is what it sees when it is asked. now: for a template that reads the clock; by default
        one day in 2024, so that a run is repeatable.

        Raises UserError as `encode` does, where no message is an assistant's, and for a template
        that writes a chat so that this cannot be.
        """
        chat, learned = self._writer.conversation(
            messages, tools=tools, last_only=last_only, now=now
        )
        ids, starts = self._writer.encoder.encode(chat)
        ends = self._writer.ends | set(self._stop_ids)
        is_answer, end = [False] * len(ids), 0
        for start, after, learns in zip(starts, [*starts[1:], len(ids)], learned, strict=True):
            place = next((i for i in range(start, after) if ids[i] in ends), None)
            if place is None:
                raise UserError("an answer has no end: no token that ends one follows it")
            end = place + 1
            is_answer[start:end] = [learns] * (end - start)
        end = len(is_answer) - is_answer[::-1].index(True)
        return ids[:end], is_answer[:end]


_formats: "weakref.WeakKeyDictionary[Tokenizer, ChatFormat]" = weakref.WeakKeyDictionary()


def chat_format(tokenizer: "Tokenizer", template: str | Path = AUTO) -> ChatFormat:
    """How chats are written for a tokenizer.

    template: "auto": its own template where it came with one, else Gemma's format; "gemma"; the
    name of one of its own templates; a file that holds a template; or the text of one.
    Raises UserError: there is no such template, or the tokenizer has neither one nor Gemma's turns.
    """
    if template == AUTO:
        known = _formats.get(tokenizer)
        if known is None:
            known = _formats[tokenizer] = _automatic(tokenizer)
        return known
    if template == GEMMA:
        return ChatFormat(tokenizer, GemmaChat(tokenizer))
    given = named_template(tokenizer, template)
    given.check()
    return _of_templates(tokenizer, {"default": given})


def use_template(tokenizer: "Tokenizer", template: str | Path) -> None:
    """From now on the tokenizer writes chats by this template, as if it had come with it: it is
    saved with it, and what ends an answer in it ends a generation. Raises UserError as chat_format
    does, TemplateError as ChatFormat.check."""
    chat_format(tokenizer, template).check()
    if template == AUTO:
        return
    text = GEMMA_TEMPLATE
    if template != GEMMA:
        text = named_template(tokenizer, template).text
    tokenizer.beside = {**tokenizer.beside, TEMPLATE: text.encode()}  # type: ignore[misc]
    _formats.pop(tokenizer, None)
    add_ends(tokenizer)


def add_ends(tokenizer: "Tokenizer") -> None:
    """What ends an answer in a tokenizer's own template ends a generation, whatever else does."""
    if not any(name in tokenizer.beside for name in (TEMPLATE, ROLES, LEGACY_TEMPLATE)):
        return
    try:
        ends = chat_format(tokenizer).stop_ids
    except UserError:
        return  # said when a chat is written
    stops = dict.fromkeys((*tokenizer.stop_ids, *sorted(ends)))
    tokenizer.stop_ids = tuple(stops)  # type: ignore[misc]
    _formats.pop(tokenizer, None)


def named_template(tokenizer: "Tokenizer", template: str | Path) -> "Template":
    """One of the tokenizer's own by its name, that of a file, or a text. Raises UserError: there
    is none."""
    from recurrentgemma.text.chat_template_files import own_templates
    from recurrentgemma.text.template_sandbox import Template

    given = str(template)
    if "{{" in given or "{%" in given:
        return Template(given, "the text given as template")
    own = own_templates(tokenizer)
    if given in own:
        return own[given]
    if Path(given).is_file():
        return Template(read_text(Path(given)), given)
    names = ", ".join(map(repr, (AUTO, GEMMA, *own)))
    raise UserError(
        f"there is no chat template {given!r}: expected {names}, the path of a file that holds a "
        f"Jinja template, or its text"
    )


def encode_chat(tokenizer: "Tokenizer", messages: Sequence[Message]) -> list[int]:
    """The tokens that ask for the next turn of a chat: see ChatFormat.encode."""
    return chat_format(tokenizer).encode(messages)


def encode_answers(
    tokenizer: "Tokenizer", messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """The tokens of a chat and which of them are answers: see ChatFormat.encode_answers."""
    return chat_format(tokenizer).encode_answers(messages)


def _automatic(tokenizer: "Tokenizer") -> ChatFormat:
    from recurrentgemma.text.chat_template_files import own_templates

    own = own_templates(tokenizer) if tokenizer.beside else {}
    if not own or ("default" in own and own["default"].text == GEMMA_TEMPLATE):
        return ChatFormat(tokenizer, GemmaChat(tokenizer))
    return _of_templates(tokenizer, own)


def _of_templates(tokenizer: "Tokenizer", templates: "Mapping[str, Template]") -> ChatFormat:
    from recurrentgemma.text.chat_template import TemplateChat  # here: Jinja, only where it is used

    return ChatFormat(tokenizer, TemplateChat(tokenizer, templates))
