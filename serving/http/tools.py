# SPDX-License-Identifier: Apache-2.0
"""Calls of functions in what a model says: how they are written, held to, and read.

A chat template shows tools to a model and says, in words of its own, how to call them. Of its text
we take the form:

    tagged      <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>    Hermes, Qwen
    plain       {"name": "f", "arguments": {...}}      any other; "parameters" where it writes that

Calls follow one another on lines. A grammar holds the answer to the form and to the functions'
schemas, so that what begins as a call is one.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_template_files import DEFAULT, TOOL_USE, own_templates
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.engine import Engine
from serving.engine.request import AllowedTokens
from serving.http.tool_protocol import NamedTool, Tool, ToolCall, new_call

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclasses.dataclass(frozen=True)
class CallForm:
    """How a template has calls written."""

    tagged: bool
    arguments: str  # what it calls them


def form_of(tokenizer: Tokenizer) -> CallForm:
    own = own_templates(tokenizer)
    template = own.get(TOOL_USE) or own.get(DEFAULT)
    text = "" if template is None else template.text
    if OPEN in text:
        return CallForm(tagged=True, arguments="arguments")
    named = '"parameters": ' in text or '"parameters":' in text.replace("\\", "")
    return CallForm(tagged=False, arguments="parameters" if named else "arguments")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolUse:
    """What one request says of tools. choice: "auto", "required", or the function to be called."""

    tools: tuple[Tool, ...]
    choice: str | NamedTool
    parallel: bool

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        if not isinstance(self.choice, NamedTool):
            return self.tools
        name = self.choice.function.name
        return tuple(tool for tool in self.tools if tool.function.name == name)


def tool_constraint(use: ToolUse, engine: Engine) -> Callable[[], AllowedTokens] | None:
    """Holds an answer to the form of calls; None where the tokenizer cannot be held to one, and no
    call is asked for. Raises UserError, which names the field."""
    assert engine.lm.tokenizer is not None
    if engine.constraints is None:
        if use.choice == "auto":
            return None
        message = 'this checkpoint\'s tokenizer cannot be held to a call: "auto" is what it can do'
        raise UserError(message, field="tool_choice")
    grammar = call_grammar(use, form_of(engine.lm.tokenizer))
    return engine.constraints.compiled("grammar", grammar, field="tools")


def call_grammar(use: ToolUse, form: CallForm) -> str:
    """In llguidance's dialect of Lark."""
    calls = [tool.call_schema(form.arguments) for tool in use.callable_tools]
    schema = json.dumps({"anyOf": calls, "x-guidance": _ONE_LINE})
    several = use.parallel and not isinstance(use.choice, NamedTool)
    more = '("\\n" call)*' if several else ""
    rules = {"call": "object", "object": f"%json {schema}", "start": f"call {more}"}
    if form.tagged:
        inside = f'"\\n" object "\\n{CLOSE}"'
        rules["call"] = f'"{OPEN}" {inside}'
        if use.choice == "auto":
            rules["start"] = f"PLAIN | lead {inside} {more}"
            rules[f'lead[suffix="{OPEN}"]'] = "/(?s:.*)/"
            rules["PLAIN"] = f"~/(?s:.*){OPEN}(?s:.*)/"
    elif use.choice == "auto":
        rules["start"] = f"PLAIN | call {more}"
        rules["PLAIN"] = "/([^{\\s](?s:.*))?/"  # a text that does not begin as a call
    return "\n".join(f"{name}: {rule}" for name, rule in rules.items())


class CallReader:
    """Takes calls out of an answer's text as it comes. What is no call of these stays text."""

    def __init__(self, use: ToolUse, form: CallForm):
        self._names = {tool.function.name for tool in use.tools}
        self._form = form
        self._held = ""  # that may be part of a call
        self._called = self._spoken = False

    def push(self, text: str, *, ended: bool) -> tuple[str, list[ToolCall]]:
        """The text that is certain to be no call, and the calls that are whole."""
        self._held += text
        content, calls = self._tagged() if self._form.tagged else self._plain(ended)
        if ended:
            content, self._held = content + self._held, ""
        if self._called:  # the lines between calls say nothing
            content = content if content.strip() else ""
        return content, calls

    def _tagged(self) -> tuple[str, list[ToolCall]]:
        content, calls = "", []
        while True:
            start = self._held.find(OPEN)
            if start < 0:
                cut = len(self._held) - _overlap(self._held, OPEN)
                return content + self._cut(cut), calls
            value, end = _object(self._held, start + len(OPEN))
            close = self._held.find(CLOSE, end) if end else -1
            if close < 0:
                return content + self._cut(start), calls
            call = self._call(value)
            before, whole = self._held[:start], self._held[start : close + len(CLOSE)]
            self._held = self._held[close + len(CLOSE) :]
            if call is None:
                content += before + whole
            else:
                content += before.rstrip()
                calls.append(call)

    def _cut(self, end: int) -> str:
        """What is held up to there, but for the space at its end, which may stand before a call."""
        told = self._held[:end].rstrip()
        self._held = self._held[len(told) :]
        return told

    def _plain(self, ended: bool) -> tuple[str, list[ToolCall]]:
        if self._spoken or (self._held.strip() and not self._held.lstrip().startswith("{")):
            self._spoken = True
            content, self._held = self._held, ""
            return content, []
        if not ended:
            return "", []
        calls, end = [], 0
        while end < len(self._held.rstrip()):
            value, stop = _object(self._held, end)
            call = self._call(value) if stop else None
            if call is None:
                return "", []  # all of it is text
            calls.append(call)
            end = stop
        self._held = ""
        return "", calls

    def _call(self, value: Any) -> ToolCall | None:
        if not isinstance(value, dict) or value.keys() != {"name", self._form.arguments}:
            return None
        name, arguments = value["name"], value[self._form.arguments]
        if name not in self._names or not isinstance(arguments, dict):
            return None
        self._called = True
        return new_call(name, arguments)


def _object(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins after `start` and the space there, and its end; 0: none is
    whole."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, 0


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may begin `tag`."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


def tool_use(
    tools: Sequence[Tool] | None, choice: str | NamedTool | None, parallel: bool | None
) -> ToolUse | None:
    """None where the model is shown no tools."""
    if not tools or choice == "none":
        return None
    return ToolUse(tools=tuple(tools), choice=choice or "auto", parallel=parallel is not False)
