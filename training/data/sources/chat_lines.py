# SPDX-License-Identifier: Apache-2.0
"""`chat:GLOB`: each line of JSON, or row of Parquet, holds something asked and what is answered.

    {"prompt": "What is the capital of France?", "response": "Paris."}
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}

The form is that of the first record of a file (chat_forms.py), and all records of the file have it.
Options: `messages=NAME`, or `prompt=NAME&response=NAME` (`a.b` is a field of a field), say where
things are; other fields of a record are not read then. `answers=last` learns from the last answer
only. `template=gemma` writes Gemma's chat format, `template=none` prompt and response with nothing
between them.
"""

import bisect
import functools
from typing import Any

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import AUTO, GEMMA
from recurrentgemma.text.chat_messages import ANSWERS, Message
from training.data.sources.chat_forms import Form, Talk, checked, form_of, pair
from training.data.sources.json_lines import JsonLines
from training.data.sources.parquet import ParquetRows
from training.data.sources.spec import SourceSpec, find_files

PLAIN = "none"  # as a template: prompt and response, one after the other
TEMPLATES = (AUTO, GEMMA, PLAIN)
NAMED = "fields by name"  # a form that the options say


class ChatLines:
    """See `training.data.sources.TextSource`. Opening reads the files once, to find the lines."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        is_parquet = all(path.endswith(".parquet") for path in find_files(spec))
        self._records = ParquetRows(spec) if is_parquet else JsonLines(spec)
        self.size, self.blocks = self._records.size, self._records.blocks
        self._firsts = self._records.firsts
        self.template = spec.options.get("template", AUTO)
        if self.template not in TEMPLATES:
            raise UserError(
                f"{spec.text!r}: template={self.template}: expected {' or '.join(TEMPLATES)}"
            )
        answers = spec.options.get("answers", "all")
        if answers not in ("all", "last"):
            raise UserError(f"{spec.text!r}: answers={answers}: expected all or last")
        self.last_only = answers == "last"
        self._named = "prompt" in spec.options or "response" in spec.options
        self._listed = spec.options.get("messages", "")
        if self._named and self._listed:
            raise UserError(f"{spec.text!r}: give messages, or prompt and response, not both")
        self._prompt = spec.options.get("prompt", "prompt")
        self._response = spec.options.get("response", "response")
        self._form_of_file = functools.lru_cache(maxsize=None)(self._first_form)

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_form_of_file"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._form_of_file = functools.lru_cache(maxsize=None)(self._first_form)

    def name(self, index: int) -> str:
        """`file:line`, counted from 1 as editors do, or the row."""
        return self._records.name(index)

    def __getitem__(self, index: int) -> str:
        """The texts of its messages, for people and fingerprints."""
        return "\n\n".join(f"{m['role']}: {shown(m)}" for m in self.messages(index))

    def form(self, index: int) -> str:
        """The name of the form of a record's file."""
        return NAMED if self._named else self._form_of_file(self._first(index)).name

    def forms(self) -> list[str]:
        """The names of the forms of all files, each once. Raises UserError: a file has none."""
        return list(dict.fromkeys(map(self.form, self._firsts)))

    def messages(self, index: int) -> list[Message]:
        """See `talk`."""
        return self.talk(index).messages

    def talk(self, index: int) -> Talk:
        """The conversation of a record.

        Raises UserError, which names its place: it has no form that we know, or another than its
        file began with; a field is missing, a role unknown, a turn empty, or there is no answer.
        """
        record = self._record(index)
        try:
            if self._named:
                return checked(self._by_name(record))
            mine = form_of(record, listed=self._listed)
        except UserError as error:
            raise self._placed(error, index) from None
        files = self._form_of_file(self._first(index))
        try:
            if mine.name != files.name:
                raise UserError(
                    f"the form is {mine.name!r}, and that of the file's first record is "
                    f"{files.name!r}: one file holds one form; put these into files of their own"
                )
            return checked(mine.read(record))
        except UserError as error:
            raise self._placed(error, index) from None

    def _record(self, index: int) -> Any:
        """Without fields of null, which Parquet has for all that a row lacks."""
        record = self._records.record(index)
        if not isinstance(record, dict):
            return record
        return {name: value for name, value in record.items() if value is not None}

    def _first(self, index: int) -> int:
        """The first record of the file that a record is in."""
        return self._firsts[bisect.bisect_right(self._firsts, index) - 1]

    def _first_form(self, first: int) -> Form:
        try:
            return form_of(self._record(first), listed=self._listed)
        except UserError as error:
            raise self._placed(error, first) from None

    def _placed(self, error: UserError, index: int) -> UserError:
        joint = "" if str(error).startswith("has ") else ":"
        return UserError(f"{self.name(index)}{joint} {error}")

    def _by_name(self, record: Any) -> Talk:
        return Talk(pair(*(_text(record, name) for name in (self._prompt, self._response))))


def _text(record: Any, field: str) -> str:
    value = record
    for part in field.split("."):
        if not isinstance(value, dict):
            raise UserError(f"expected a JSON object, found a {type(value).__name__}")
        if part not in value:
            has = ", ".join(map(repr, value)) or "nothing"
            raise UserError(
                f"has no field {field!r}; it has {has}; name the fields with --prompt and "
                f"--response, or ?prompt=NAME&response=NAME"
            )
        value = value[part]
    if not isinstance(value, str):
        raise UserError(f"{field} is a {type(value).__name__}, expected a string")
    return value


def shown(message: Message) -> str:
    """The text of a message."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def is_answer(message: Message) -> bool:
    """Whether it is learned from."""
    return message.get("role") in ANSWERS
