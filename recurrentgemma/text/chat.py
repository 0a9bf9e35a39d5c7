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
from recurrentgemma.text.continuation import encode_continuation

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

    A token ends where an answer begins, in the turns that are over, too: there the model began to
    generate. So the tokens of a chat are those of the chat before and more.

    `Tokenizer.encode` reads a literal control token, such as `<end_of_turn>`, as that token. Inside
    a message it is what somebody wrote, so there it is encoded as plain characters. Raises
    ValueError when the tokenizer has no turn tokens (the model then knows no chat format), or when
    it makes one of other characters.
    """
    return _encode(tokenizer, _turns(messages))[0]


def encode_answers(
    tokenizer: "Tokenizer", messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """The tokens of a chat up to its last answer, and which of them are the model's to write: each
    assistant turn with the `<end_of_turn>` that ends it.

    Before each answer stands what `encode_chat` gives for the messages so far: what a model learns
    from is what it sees when it is asked. Raises ValueError as encode_chat does, and where no
    message is an assistant's.
    """
    turns = _turns(messages)[:-1]
    answers = [number for number, (before, _, _) in enumerate(turns) if before == _ANSWER]
    if not answers:
        _require_turns(tokenizer)
        raise UserError("none of the messages has the role 'assistant': there is no answer")
    ids, is_answer = _encode(tokenizer, turns[: answers[-1] + 1])
    end = len(ids) - is_answer[::-1].index(True)
    return ids[:end], is_answer[:end]


def _encode(
    tokenizer: "Tokenizer", turns: Sequence[tuple[str, str, str]]
) -> tuple[list[int], list[bool]]:
    """The tokens of turns, and which of them are an answer's, its `<end_of_turn>` included."""
    _require_turns(tokenizer)
    control = tokenizer.control_tokens
    end, ids, is_answer, answering = control[END_OF_TURN], [], [], False
    for number, (part, begins_answer) in enumerate(_parts(turns, control)):
        if number == 0:
            tokens = tokenizer.encode(part)
        else:
            before = _ANSWER if begins_answer else None
            tokens = encode_continuation(tokenizer, part, before)
        for turn in (START_OF_TURN, END_OF_TURN):
            if tokens.count(control[turn]) > part.count(turn):
                raise UserError(
                    f"a message has characters that this tokenizer turns into {turn}, which would "
                    f"begin or end a turn: remove them"
                )
            if tokens.count(control[turn]) < part.count(turn):
                raise UserError(
                    f"this tokenizer has a token {turn} and does not find it in a text, so it "
                    f"cannot write Gemma's chat format: pass a plain prompt instead of messages"
                )
        answering |= begins_answer
        answer = 0
        if answering:
            answering = end not in tokens
            answer = len(tokens) if answering else tokens.index(end) + 1
        ids += tokens
        is_answer += [True] * answer + [False] * (len(tokens) - answer)
    return ids, is_answer


def _parts(
    turns: Sequence[tuple[str, str, str]], control_tokens: Mapping[str, int]
) -> list[tuple[str, bool]]:
    """The text of turns, cut where a token must end: (part, whether it begins with an answer).

    That is before each answer, and inside of a control token that a message spells: cut in two, it
    is only its characters.
    """
    parts = [("", False)]

    def add(text: str) -> None:
        last, begins_answer = parts.pop()
        parts.append((last + text, begins_answer))

    for before, content, after in turns:
        add(before)
        if before == _ANSWER:
            parts.append(("", True))
        first, *texts = _cut_control_tokens(content, control_tokens)
        add(first)
        parts.extend((text, False) for text in texts)
        add(after)
    return parts


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
        if not isinstance(message, Mapping):
            raise UserError(
                f"message {i} is {message!r}: expected {{'role': 'user', 'content': 'Hi'}}"
            )
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
