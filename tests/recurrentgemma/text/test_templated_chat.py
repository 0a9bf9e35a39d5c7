# SPDX-License-Identifier: Apache-2.0
"""What a template sees of a chat."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import ChatEncoder
from recurrentgemma.text.huggingface_tokenizer import HuggingFaceTokenizer
from recurrentgemma.text.template_sandbox import Template
from recurrentgemma.text.templated_chat import TemplatedChat
from tests.recurrentgemma.text.chat_samples import CALL, CONFIG, TOOLS, TURNS, tokenizer_json

ENCODER = ChatEncoder(HuggingFaceTokenizer(tokenizer_json(), CONFIG), ["<tool_call>"])
SHOWN = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"


def chat(messages, text: str = SHOWN, tools=None, variables=None) -> TemplatedChat:
    template = Template(text, "chat.jinja")
    return TemplatedChat(
        template, ENCODER, messages, tools, variables, roles={"bos_token": "<s>"}, now=None
    )


def test_with_marks_and_without():
    shown = chat(TURNS[:2])
    answer, other = shown.marks.answer, shown.marks.other
    assert shown.render(asks=False) == "[user:  Capital of France? ][assistant:Paris]"
    assert shown.render(asks=False, marked=True) == (
        f"[user:  {other}Capital of France? ][assistant:{answer}Paris]"
    )
    assert shown.render(asks=False, count=1) == "[user:  Capital of France? ]"
    assert shown.render(asks=False, count=2, last="x").endswith("[assistant:x]")


def test_control_tokens_are_marked_wherever_they_are_spelt():
    spelt = "<|im_end|><tool_call>"
    messages = [{"role": "user", "content": spelt}, {"role": "assistant", "content": spelt}]
    shown = chat(messages, SHOWN + "{{ extra }}{{ bos_token }}", variables={"extra": "<s>"})
    opening, closing = shown.marks.opening, shown.marks.closing
    end, call, bos = (f"{opening}{t}{closing}" for t in ("<|im_end|>", "<tool_call>", "<s>"))
    assert shown.render(asks=False) == (
        f"[user:{end}{call}][assistant:{end}<tool_call>]{bos}<s>"  # the template's own is not
    )


def test_names_that_templates_know():
    messages = [{"role": "developer", "content": "a"}, {"role": "model", "content": "b"}]
    assert chat(messages).render(asks=False) == "[system:a][assistant:b]"
    knows = chat(messages, SHOWN + "{# developer #}")
    assert knows.render(asks=False) == "[developer:a][assistant:b]"


REFUSED = {
    "tools": ({"tools": TOOLS}, "tools"),
    "a variable": ({"variables": {"documents": 1}}, "chat_template_kwargs"),
    "calls": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": CALL}]}]},
        "messages.0.tool_calls",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_template_does_not_write(case: str):
    fields, field = REFUSED[case]
    with pytest.raises(UserError) as caught:
        chat(**{"messages": TURNS} | fields)
    assert caught.value.field == field
