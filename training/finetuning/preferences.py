# SPDX-License-Identifier: Apache-2.0
"""Answers of which one was preferred to another, as token ids.

    {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."}
    {"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}
    {"prompt": ..., "completion": ..., "label": true}

The last is for kto alone, which takes pairs, too: an answer that is desirable and one that is not.
A text is one message. Learned from is the last answer, with the token that ends it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.chat_documents import encode_plain
from training.data.sources.chat_lines import is_answer, shown
from training.data.sources.json_lines import OF_AN_ARRAY
from training.finetuning.preference_config import PreferenceConfig
from training.finetuning.questions import format_of, open_records

PAIR, JUDGED = ("chosen", "rejected"), ("completion", "label")


class Answer(NamedTuple):
    """ids: of the prompt and of it. start: where it begins. sign: 1 of one to be likelier, -1 of
    one to be less likely."""

    ids: np.ndarray
    start: int
    sign: int


class Preference(NamedTuple):
    """An example. name: its file and line. answers: of dpo the chosen one and the rejected, of kto
    one."""

    name: str
    answers: tuple[Answer, ...]

    @property
    def length(self) -> int:
        """Tokens of the longest row that it takes."""
        return max(len(answer.ids) for answer in self.answers) - 1


class PreferenceReader:
    """Reads them for one tokenizer, which writes chats as the run does (write_chats_by).

    most: tokens of a row. Raises UserError: the tokenizer can write no chats.
    """

    def __init__(self, config: PreferenceConfig, tokenizer: Tokenizer, *, most: int) -> None:
        self._config, self._tokenizer, self._most = config, tokenizer, most
        self._format = format_of(tokenizer, plain=config.plain)

    def read(self, files: Sequence[str]) -> list[Preference]:
        """The examples of all files.

        Raises UserError, which names the line: an answer is missing, empty, the same as the other
        or too long, or its prompt is another.
        """
        return [example for name in files for example in self._read(name)]

    def _read(self, name: str) -> list[Preference]:
        records = open_records(name, "leave them out")

        def one(number: int) -> list[Preference]:
            try:
                return self._examples(records.name(number), records.record(number))
            except UserError as error:
                raise UserError(f"{records.name(number)}: {error}") from None

        with ThreadPoolExecutor() as pool:  # tokenizers work outside of the interpreter's lock
            return [example for part in pool.map(one, range(len(records))) for example in part]

    def _examples(self, name: str, row: Any) -> list[Preference]:
        if not isinstance(row, dict):
            of_an_array = OF_AN_ARRAY if isinstance(row, list) else ""
            raise UserError(f"expected a JSON object, found a {type(row).__name__}{of_an_array}")
        row = {field: value for field, value in row.items() if value is not None}
        if self._config.method == "kto" and "completion" in row:
            label = _field(row, "label", JUDGED)
            if not isinstance(label, bool):
                raise UserError(f"label={label!r}: expected true or false")
            messages = _conversation(row, "completion")
            return [Preference(name, (self._answer(messages, "completion", 1 if label else -1),))]
        talks = [_conversation(row, field) for field in PAIR]
        if talks[0][:-1] != talks[1][:-1]:
            raise UserError(
                "chosen and rejected answer different prompts; they may differ in their last "
                "message alone"
            )
        if talks[0] == talks[1]:
            raise UserError("chosen and rejected are the same: drop this line")
        answers = tuple(
            self._answer(talk, field, sign)
            for talk, field, sign in zip(talks, PAIR, (1, -1), strict=True)
        )
        if self._config.method == "kto":
            return [Preference(name, (answer,)) for answer in answers]
        return [Preference(name, answers)]

    def _answer(self, messages: list[dict[str, Any]], field: str, sign: int) -> Answer:
        if self._format is None:
            ids, learned = encode_plain(self._tokenizer, messages)
        else:
            ids, learned = self._format.encode_answers(messages, last_only=True)
        if len(ids) - 1 > self._most:
            raise UserError(
                f"{field} has {len(ids) - 1:,} tokens with its prompt, and a row "
                f"{self._most:,}: raise --sequence-length, or drop this line"
            )
        start = learned.index(True)
        return Answer(np.array(ids, np.int32), start, sign)


def _field(row: Mapping[str, Any], field: str, fields: Sequence[str]) -> Any:
    if field not in row:
        raise UserError(
            f"has no field {field!r}; it has {', '.join(map(repr, row)) or 'nothing'}; expected "
            f"a prompt, {' and '.join(fields)}"
        )
    return row[field]


def _conversation(row: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """The messages up to this answer."""
    answer = _field(row, field, JUDGED if field == "completion" else PAIR)
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(answer, str):
        if prompt is None:
            raise UserError(f"{field} is a text, and there is no prompt that it answers")
        answer = [{"role": "assistant", "content": answer}]
    messages = [*(prompt or []), *answer] if isinstance(answer, list) else answer
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{field}={answer!r}: expected a text, or a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{message!r}: expected a message with 'role' and 'content'")
    if len(messages) < 2 or not is_answer(messages[-1]):
        raise UserError(f"{field} does not end in an answer of the assistant to a prompt")
    if is_answer(messages[-2]):
        raise UserError(f"{field} answers an answer: the message before it is the assistant's")
    if not shown(messages[-1]).strip():
        raise UserError(f"{field} is empty: mend or drop this line")
    return messages
