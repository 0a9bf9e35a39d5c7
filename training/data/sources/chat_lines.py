# SPDX-License-Identifier: Apache-2.0
"""`chat:GLOB[?prompt=prompt&response=response&template=none]`: each line is a JSON object that
holds something asked and what is to be answered.

    {"prompt": "What is the capital of France?", "response": "Paris."}
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}

A line with `messages` is a conversation, unless the spec names a prompt or a response; other fields
of a line are not read. `template=none` is for tokenizers without turns: prompt, then response, with
nothing between them.
"""

from collections.abc import Mapping
from typing import Any

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import Message
from training.data.sources.json_lines import JsonLines
from training.data.sources.spec import SourceSpec

TEMPLATES = ("gemma", "none")
ANSWERS = ("assistant", "model")  # the roles that are learned from


class ChatLines:
    """See `training.data.sources.TextSource`. Opening reads the files once, to find the lines."""

    blocks = None

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._lines = JsonLines(spec)
        self.size = self._lines.size
        self.template = spec.options.get("template", "gemma")
        if self.template not in TEMPLATES:
            raise UserError(
                f"{spec.text!r}: template={self.template}: expected {' or '.join(TEMPLATES)}"
            )
        self._named = "prompt" in spec.options or "response" in spec.options
        self._prompt = spec.options.get("prompt", "prompt")
        self._response = spec.options.get("response", "response")

    def __len__(self) -> int:
        return len(self._lines)

    def name(self, index: int) -> str:
        """`file:line`, counted from 1 as editors do."""
        return self._lines.name(index)

    def __getitem__(self, index: int) -> str:
        """The texts of its messages, for people and fingerprints."""
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.messages(index))

    def messages(self, index: int) -> list[Message]:
        """The conversation of a line.

        Raises ValueError: a field is missing, a message is not one, or an answer is empty.
        """
        record = self._lines.record(index)
        if isinstance(record, dict) and "messages" in record and not self._named:
            return self._conversation(record["messages"], index)
        if isinstance(record, dict) and "messages" not in record and self._prompt not in record:
            raise UserError(
                f"{self.name(index)} has neither {self._prompt!r} nor 'messages'; it has "
                f"{', '.join(map(repr, record)) or 'nothing'}; name the fields with "
                f"--prompt and --response, or ?prompt=NAME&response=NAME"
            )
        prompt = self._lines.text(record, self._prompt, index, "prompt")
        response = self._lines.text(record, self._response, index, "response")
        return self._answered(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], index
        )

    def _conversation(self, messages: Any, index: int) -> list[Message]:
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
            raise UserError(
                f"{self.name(index)}: messages must be a list of objects with role and content"
            )
        for number, message in enumerate(messages):
            for name in ("role", "content"):
                if not isinstance(message.get(name), str):
                    raise UserError(
                        f"{self.name(index)}: message {number} has {name} "
                        f"{message.get(name)!r}: expected a string"
                    )
        return self._answered(messages, index)

    def _answered(self, messages: list[Message], index: int) -> list[Message]:
        for message in messages:
            if message["role"] in ANSWERS and not message["content"].strip():
                raise UserError(
                    f"{self.name(index)}: an answer is empty, so there is nothing to learn; drop "
                    f"this line"
                )
        return messages
