# SPDX-License-Identifier: Apache-2.0
"""Gemma's chat format: messages to the text of a prompt.

    <start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n

Gemma was trained without a system role: a system message (OpenAI's newer name: developer) is put
before the text of the first user turn, with an empty line between. Nothing else is added or
stripped.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import (
    END_OF_TURN,
    START_OF_TURN,
    ChatEncoder,
    ChatText,
    free_marks,
)
from recurrentgemma.text.chat_messages import Message, checked_messages

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

GEMMA = "gemma"  # what the format is called where a template may be named
GEMMA_TEMPLATE = (  # the same, for transformers
    "{{ bos_token }}{% set turns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% if not loop.first %}"
    "{{ raise_exception('only the first message may have the role system') }}{% endif %}"
    "{% set turns.system = message['content'] + '\\n\\n' %}{% else %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{% if role == 'user' %}{{ turns.system }}{% set turns.system = '' %}{% endif %}"
    "{{ message['content'] + '<end_of_turn>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_ANSWER = f"{START_OF_TURN}model\n"
_ROLES = {"user": "user", "assistant": "model", "model": "model"}
_SYSTEM = ("system", "developer")


def format_chat(messages: Sequence[Message]) -> str:
    """The prompt that asks a Gemma for the next turn, as text.

    Raises UserError for no messages, a role that is not system (or developer), user or assistant
    (or Gemma's own name for it, model), a system message that is not the first, and one that no
    user turn follows.
    """
    return "".join(f"{before}{content}{after}" for before, content, after in _turns(messages))


class GemmaChat:
    """Writes chats in Gemma's format.

    Raises UserError: the tokenizer has no turn tokens (the model then knows no chat format).
    """

    name = shown = GEMMA

    def __init__(self, tokenizer: "Tokenizer") -> None:
        if not {START_OF_TURN, END_OF_TURN} <= tokenizer.control_tokens.keys():
            raise UserError(
                f"this tokenizer has no {START_OF_TURN} and {END_OF_TURN} and no chat template of "
                "its own, so its model was not trained on chats that we know: pass a plain prompt "
                "instead of messages, or a template (--chat-template FILE, "
                "lm.chat(..., template=...))",
                field="messages",
            )
        self.encoder = ChatEncoder(tokenizer)
        self.ends = frozenset({tokenizer.control_tokens[END_OF_TURN]})

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continues: bool = False,
        now: datetime.datetime | None = None,
    ) -> ChatText:
        """What asks for the next turn; `continues`: for the rest of the last one. now: not read.

        Raises UserError as format_chat does, and for what only a chat template can write.
        """
        _refuse(tools=tools, chat_template_kwargs=variables)
        turns = _turns(messages)
        return self._text(turns[:-1], continues=True) if continues else self._text(turns)

    def conversation(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        last_only: bool,
        now: datetime.datetime | None = None,
    ) -> tuple[ChatText, list[bool]]:
        """The text to learn from, and which of its answers are learned. now: not read.

        Raises UserError as format_chat does, and where no message is an assistant's.
        """
        _refuse(tools=tools)
        turns = _turns(messages)[:-1]
        answers = [number for number, (before, _, _) in enumerate(turns) if before == _ANSWER]
        if not answers:
            raise UserError("none of the messages has the role 'assistant': there is no answer")
        chat = self._text(turns[: answers[-1] + 1])
        count = len(chat.answers)
        return chat, [not last_only or number == count - 1 for number in range(count)]

    def _text(self, turns: list[tuple[str, str, str]], *, continues: bool = False) -> ChatText:
        marks = free_marks(content for _, content, _ in turns)
        text, answers = "", []
        for before, content, after in turns:
            text += before
            is_answer = before == _ANSWER
            if is_answer:
                answers.append(len(text))
            text += self.encoder.shield(content, marks, is_answer=is_answer) + after
        if continues:
            text = text.removesuffix(turns[-1][2])
        return ChatText(text, tuple(answers), marks, bos=True)


def _refuse(**given: Any) -> None:
    for field, value in given.items():
        if value:
            raise UserError(
                f"{field}: Gemma's chat format has none; leave it out, or pass a chat template "
                f"that writes them",
                field=field,
            )


def _turns(messages: Sequence[Message]) -> list[tuple[str, str, str]]:
    """(what stands before it, a message's text, what stands after it), in order."""
    turns, system = [], ""
    for i, message in enumerate(checked_messages(messages)):
        role, content = message["role"], message.get("content")
        if content is None or "tool_calls" in message:
            raise UserError(
                f"message {i} calls tools, which Gemma's chat format cannot write: pass a chat "
                f"template that does",
                field=f"messages.{i}.tool_calls",
            )
        if role in _SYSTEM:
            if i:
                raise UserError(
                    f"message {i} has the role {role!r}: only the first one may",
                    field=f"messages.{i}.role",
                )
            system = content + "\n\n"
            continue
        if role not in _ROLES:
            raise UserError(
                f"message {i} has the role {role!r}: expected 'system', 'user' or 'assistant'",
                field=f"messages.{i}.role",
            )
        if system and role == "user":
            content, system = system + content, ""
        turns.append((f"{START_OF_TURN}{_ROLES[role]}\n", content, f"{END_OF_TURN}\n"))
    if system:
        raise UserError(
            "a system message needs a user turn after it: Gemma has no system role",
            field="messages",
        )
    return [*turns, (_ANSWER, "", "")]
