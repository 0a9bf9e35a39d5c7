# SPDX-License-Identifier: Apache-2.0
"""One chat on its way through a template: what the template sees, with and without marks."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import ChatEncoder, free_marks
from recurrentgemma.text.chat_messages import (
    ANSWERS,
    Message,
    checked_messages,
    plain_value,
)
from recurrentgemma.text.template_sandbox import Rendered, Template

_OURS = ("messages", "tools", "documents", "add_generation_prompt")


class TemplatedChat:
    """Messages and variables as a template sees them.

    roles: the special tokens, by the names that templates have for them.
    Raises UserError, which names the field: what no template may see, or this one does not write.
    """

    def __init__(
        self,
        template: Template,
        encoder: ChatEncoder,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
        *,
        roles: Mapping[str, str],
        now: datetime.datetime | None,
    ) -> None:
        checked, tools = checked_messages(messages), plain_value(list(tools or ()))
        given = plain_value(dict(variables or {}))
        for name in _OURS:
            if name in given:
                raise UserError(
                    f"chat_template_kwargs sets {name!r}, which has a field of its own",
                    field="chat_template_kwargs",
                )
        if tools and "tools" not in template.text:
            raise UserError(
                f"{template.name}: this chat template cannot write tools: leave them out",
                field="tools",
            )
        for number, message in enumerate(checked):
            if message["role"] == "model":
                message["role"] = "assistant"
            if message["role"] == "developer" and "developer" not in template.text:
                message["role"] = "system"
            if "tool_calls" in message and "tool_calls" not in template.text:
                raise UserError(
                    f"{template.name}: this chat template cannot write tool_calls: leave them out",
                    field=f"messages.{number}.tool_calls",
                )
        values = [checked, tools, given]
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        self.marks = free_marks([*texts, template.text])
        self.template, self._encoder = template, encoder
        self._now = now or datetime.datetime.now()  # once: a chat is rendered several times
        self.messages = [self._shielded(m, m["role"] in ANSWERS) for m in checked]
        self._tools = self._shielded(tools, False) or None
        self._variables = {**roles, **self._shielded(given, False)}

    def render(
        self, *, asks: bool, count: int | None = None, marked: bool = False, last: str | None = None
    ) -> str:
        """See `rendered`."""
        return self.rendered(asks=asks, count=count, marked=marked, last=last).text

    def rendered(
        self, *, asks: bool, count: int | None = None, marked: bool = False, last: str | None = None
    ) -> Rendered:
        """The first `count` messages; asks: with what asks for the next. marked: with a mark in
        each message that says something, after the spaces that it begins with. last: what the last
        one says."""
        messages = self.messages[:count]
        if marked:
            messages = [self._marked(message) for message in messages]
        if last is not None:
            messages = [*messages[:-1], {**messages[-1], "content": last}]
        variables = self._variables | {"messages": messages, "tools": self._tools}
        variables |= {"documents": None, "add_generation_prompt": asks}
        return self.template.render(variables, now=self._now)

    def _marked(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content", "")
        if not isinstance(content, str):
            return message
        is_answer = message["role"] == "assistant"
        if not content.strip():
            return message
        spaces = len(content) - len(content.lstrip())
        mark = self.marks.answer if is_answer else self.marks.other
        return {**message, "content": content[:spaces] + mark + content[spaces:]}

    def _shielded(self, value: Any, is_answer: bool) -> Any:
        if isinstance(value, str):
            return self._encoder.shield(value, self.marks, is_answer=is_answer)
        if isinstance(value, list | tuple):
            return [self._shielded(item, is_answer) for item in value]
        if isinstance(value, Mapping):
            return {
                self._shielded(key, is_answer): self._shielded(item, is_answer)
                for key, item in value.items()
            }
        return value
