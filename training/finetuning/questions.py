# SPDX-License-Identifier: Apache-2.0
"""What a model is asked where it learns from rewards: prompts, as text and as token ids.

    {"prompt": "12 + 7 =", "answer": "19"}
    {"prompt": [{"role": "user", "content": "12 + 7?"}], "answer": "19"}
    {"messages": [{"role": "system", ...}, {"role": "user", ...}], "answer": "19"}

A row may have further fields, which a reward function gets to see. A text is one message of the
user's, unless prompts are plain.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import AUTO, ChatFormat, chat_format, check_text
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.sources.chat_lines import is_answer, shown
from training.data.sources.json_lines import OF_AN_ARRAY, JsonLines
from training.data.sources.parquet import ParquetRows
from training.data.sources.spec import find_files, parse_spec
from training.finetuning.policy_config import PolicyConfig


class Question(NamedTuple):
    """name: its file and line. text: the prompt, or the last message of it. ids: as the model reads
    it. row: all fields of the line."""

    name: str
    text: str
    ids: tuple[int, ...]
    row: Mapping[str, Any]


def format_of(tokenizer: Tokenizer, *, plain: bool) -> ChatFormat | None:
    """How the tokenizer writes chats; None for plain text. Raises UserError: it writes none."""
    if plain:
        return None
    try:
        return chat_format(tokenizer, AUTO)
    except UserError as error:
        raise UserError(
            f"{error}; with --chat-template none prompts and answers are plain text"
        ) from None


def open_records(name: str, instead: str) -> JsonLines | ParquetRows:
    """The lines of files that are no conversations. Raises UserError: there are none, or options
    of conversations were given; `instead` says what to do."""
    spec = parse_spec(f"chat:{name}")
    if spec.options:
        raise UserError(f"{name!r}: options after ? are of examples; {instead}")
    is_parquet = all(path.endswith(".parquet") for path in find_files(spec))
    return ParquetRows(spec) if is_parquet else JsonLines(spec)


class QuestionReader:
    """Reads prompts for one tokenizer, which writes chats as the run does (write_chats_by).

    most: tokens of a prompt. Raises UserError: the tokenizer can write no chats.
    """

    def __init__(self, config: PolicyConfig, tokenizer: Tokenizer, *, most: int) -> None:
        self._config, self._tokenizer, self._most = config, tokenizer, most
        self._format = format_of(tokenizer, plain=config.plain)
        ends = {*tokenizer.stop_ids, *(() if self._format is None else self._format.stop_ids)}
        if tokenizer.eos_id is not None:
            ends.add(tokenizer.eos_id)
        self.stop_ids = tuple(sorted(ends))

    def read(self, files: Sequence[str]) -> list[Question]:
        """The prompts of all files.

        Raises UserError, which names the line: it has no prompt, or an empty one, or one that the
        template refuses or that is too long; or no answer, where none but exact ones are rewarded.
        """
        return [question for name in files for question in self._read(name)]

    def _read(self, name: str) -> list[Question]:
        records = open_records(name, "name the fields of prompts with --prompt and --response")
        questions = []
        for number in range(len(records)):
            row = records.record(number)
            try:
                questions.append(self._question(records.name(number), row))
            except UserError as error:
                raise UserError(f"{records.name(number)}: {error}") from None
        return questions

    def _question(self, name: str, row: Any) -> Question:
        if not isinstance(row, dict):
            of_an_array = OF_AN_ARRAY if isinstance(row, list) else ""
            raise UserError(f"expected a JSON object, found a {type(row).__name__}{of_an_array}")
        field = self._config.prompt_field
        if field not in row and field == "prompt" and "messages" in row:
            field = "messages"
        prompt = self._field(row, field, "--prompt")
        if not self._config.reward:
            answer = self._field(row, self._config.answer_field, "--response")
            if not isinstance(answer, str) or not answer.strip():
                raise UserError(
                    f"{self._config.answer_field}={answer!r}: expected the exact answer, a text "
                    "that is not empty; mend or drop this line, or give --reward FILE.py:FUNCTION"
                )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text, ids = self._encoded(_checked(messages, field))
        if len(ids) > self._most:
            raise UserError(
                f"the prompt has {len(ids):,} tokens, and with max_new_tokens="
                f"{self._config.max_new_tokens} for the answer at most {self._most:,} fit: raise "
                "--sequence-length, lower --max-new-tokens, or drop this line"
            )
        return Question(name, text, tuple(ids), row)

    def _field(self, row: Mapping[str, Any], field: str, option: str) -> Any:
        if row.get(field) is None:
            raise UserError(
                f"has no field {field!r}; it has {', '.join(map(repr, row)) or 'nothing'}; name "
                f"another with {option}"
            )
        return row[field]

    def _encoded(self, messages: list[dict[str, Any]]) -> tuple[str, list[int]]:
        text = shown(messages[-1])
        if self._format is not None:
            return text, self._format.encode(messages)
        if len(messages) > 1 or messages[0].get("role") != "user":
            raise UserError("several messages: --chat-template none knows one of the user's")
        check_text(text)
        return text, self._tokenizer.encode(text)


def chosen(questions: Sequence[Question], *, seed: int, start: int, count: int) -> list[Question]:
    """`count` questions from number `start` on of an endless sequence: all of them, in an order
    that the seed decides, and again in another."""
    size, numbers = len(questions), []
    for number in range(start, start + count):
        turn, place = divmod(number, size)
        if not numbers or place == 0:
            order = np.random.default_rng([seed, turn]).permutation(size)
        numbers.append(order[place])
    return [questions[number] for number in numbers]


def _checked(messages: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{field}={messages!r}: expected a text, or a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{message!r}: expected a message with 'role' and 'content'")
    if is_answer(messages[-1]):
        raise UserError("the last message is an answer already: leave it out of the prompt")
    if not shown(messages[-1]).strip():
        raise UserError("the prompt is empty: mend or drop this line")
    return messages
