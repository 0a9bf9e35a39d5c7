# SPDX-License-Identifier: Apache-2.0
"""Gemma's chat format: messages to the text, or the tokens, of a prompt.

    <start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n

Gemma was trained without a system role: a system message is put before the text of the first user
turn, with an empty line between. Nothing else is added or stripped.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from recurrentgemma.errors import UserError

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
_ANSWER = f"{START_OF_TURN}model\n"
_ROLES = {"user": "user", "assistant": "model", "model": "model"}


def format_chat(messages: Sequence[Message]) -> str:
    """The prompt that asks the model for the next turn, as text.

    Raises ValueError for no messages, a role that is not system, user or assistant (or Gemma's own
    name for it, model), a system message that is not the first, and one that no user turn follows.
    """
    return "".join(f"{before}{content}{after}" for before, content, after in _turns(messages))


def encode_chat(tokenizer: "Tokenizer", messages: Sequence[Message]) -> list[int]:
    """The tokens of `format_chat(messages)`, from which no message can forge a turn.

    `Tokenizer.encode` reads a literal control token, such as `<end_of_turn>`, as that token. Inside
    a message it is what somebody wrote, so there it is encoded as plain characters. Raises
    ValueError when the tokenizer has no turn tokens: the model then knows no chat format.
    """
    _require_turns(tokenizer)
    parts = [""]  # encoded one by one: a control token cut in two is only its characters
    for before, content, after in _turns(messages):
        first, *rest = _cut_control_tokens(content, tokenizer.control_tokens)
        parts[-1] += before + first
        parts += rest
        parts[-1] += after
    encoded = [tokenizer.encode(part, bos=i == 0) for i, part in enumerate(parts)]
    return [token for part in encoded for token in part]


def encode_answers(
    tokenizer: "Tokenizer", messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """The tokens of a chat up to its last answer, and which of them are the model's to write: each
    assistant turn with the `<end_of_turn>` that ends it.

    Before each answer stands what `encode_chat` gives for the messages so far, and no message can
    forge a turn. Raises ValueError as encode_chat does, and where no message is an assistant's.
    """
    _require_turns(tokenizer)
    ids: list[int] = []
    is_answer: list[bool] = []

    def add(parts: Sequence[str], answer: bool) -> None:
        for part in parts:
            ids.extend(tokenizer.encode(part, bos=not ids))
        is_answer.extend([answer] * (len(ids) - len(is_answer)))

    prompt = [""]
    for before, content, after in _turns(messages)[:-1]:
        first, *rest = _cut_control_tokens(content, tokenizer.control_tokens)
        if before == _ANSWER:
            prompt[-1] += before
            add(prompt, False)
            add([first, *rest, END_OF_TURN], True)
            prompt = [after.removeprefix(END_OF_TURN)]
            continue
        prompt[-1] += before + first
        prompt += rest
        prompt[-1] += after
    if not ids:
        raise UserError("none of the messages has the role 'assistant': there is no answer")
    return ids, is_answer


def _require_turns(tokenizer: "Tokenizer") -> None:
    if not {START_OF_TURN, END_OF_TURN} <= tokenizer.control_tokens.keys():
        raise UserError(
            f"this tokenizer has no {START_OF_TURN} and {END_OF_TURN}, so its model was not "
            "trained on Gemma's chat format: pass a plain prompt instead of messages"
        )


def _turns(messages: Sequence[Message]) -> list[tuple[str, str, str]]:
    """(what stands before it, a message's text, what stands after it), in order."""
    if not messages:
        raise UserError("a chat needs at least one message, such as {'role': 'user', ...}")
    turns, system = [], ""
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise UserError(f"message {i} has content {content!r}: expected a string")
        check_text(content)
        if role == "system":
            if i:
                raise UserError(f"message {i} has the role 'system': only the first one may")
            system = content + "\n\n"
            continue
        if role not in _ROLES:
            raise UserError(
                f"message {i} has the role {role!r}: expected 'system', 'user' or 'assistant'"
            )
        if system and role == "user":
            content, system = system + content, ""
        turns.append((f"{START_OF_TURN}{_ROLES[role]}\n", content, f"{END_OF_TURN}\n"))
    if system:
        raise UserError("a system message needs a user turn after it: Gemma has no system role")
    return [*turns, (_ANSWER, "", "")]


def _cut_control_tokens(text: str, control_tokens: Mapping[str, int]) -> list[str]:
    cuts = [f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in control_tokens if len(t) > 1]
    return re.split("|".join(cuts), text) if cuts else [text]


def check_text(text: str) -> None:
    """Raises ValueError: the text holds half a character, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"this is no text: its character {error.start} is {text[error.start]!r}, half of "
            "a character, as bytes that are not UTF-8 become; pass valid Unicode"
        ) from None
