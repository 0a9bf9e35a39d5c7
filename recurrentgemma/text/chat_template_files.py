# SPDX-License-Identifier: Apache-2.0
"""The chat templates that came with a tokenizer, from the files beside it."""

import json
from typing import TYPE_CHECKING

from recurrentgemma.errors import TemplateError
from recurrentgemma.text.template_sandbox import Template
from recurrentgemma.text.tokenizer_files import LEGACY_TEMPLATE, ROLES, TEMPLATE

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

DEFAULT, TOOL_USE = "default", "tool_use"  # transformers' names of templates


def own_templates(tokenizer: "Tokenizer") -> dict[str, Template]:
    """The chat templates that came with a tokenizer, by name; {} where there is none.

    A chat_template.jinja counts before tokenizer_config.json, as in transformers.
    Raises TemplateError: a file is no text, no JSON, or has a template that is none.
    """
    beside = tokenizer.beside
    if TEMPLATE in beside:
        return {DEFAULT: Template(_decoded(beside[TEMPLATE], TEMPLATE), TEMPLATE)}
    for name in (ROLES, LEGACY_TEMPLATE):
        if b'"chat_template"' not in beside.get(name, b""):
            continue
        try:
            content = json.loads(_decoded(beside[name], name))
        except (ValueError, RecursionError) as error:
            raise TemplateError(f"{name} beside the tokenizer: not a JSON file ({error})") from None
        value = content.get("chat_template") if isinstance(content, dict) else None
        if value is None:
            continue
        listed = value if isinstance(value, list) else [{"name": DEFAULT, "template": value}]
        templates = {}
        for item in listed:
            named = isinstance(item, dict) and isinstance(item.get("name"), str)
            if not named or not isinstance(item.get("template"), str):
                raise TemplateError(
                    f"{name} beside the tokenizer: chat_template is a text, or a list of "
                    f"{{'name': ..., 'template': ...}}; found {item!r}"
                )
            several = f" {item['name']!r}" if len(listed) > 1 else ""
            where = f"{name} (chat_template{several})"
            templates[item["name"]] = Template(item["template"], where)
        if templates:
            return templates
    return {}


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{name} beside the tokenizer: not UTF-8 ({error})") from None
