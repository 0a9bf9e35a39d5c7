# SPDX-License-Identifier: Apache-2.0
"""What a template can do, what it cannot reach, and how much it may take."""

import datetime

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.template_sandbox import Template, literals


def render(text: str, **variables: object) -> str:
    return Template(text, "chat.jinja").render(variables).text


def test_what_transformers_gives_a_template():
    assert render("{{ {'é': '<b>'} | tojson }}") == '{"é": "<b>"}'
    assert render("{{ [1] | tojson(indent=1) }}") == "[\n 1\n]"
    loop = "{% for m in ms %}{% if m == 2 %}{% continue %}{% endif %}{{ loop.index }}{% endfor %}"
    assert render(loop, ms=[1, 2, 3]) == "13"
    assert render("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}") == "2"
    assert render("{{ dict(a=1).a ~ 'b' ~ 3 }}") == "1b3"
    assert render("  {% if true %}\na\n  {% endif %}\n") == "a\n"
    day = datetime.datetime(2024, 7, 26)
    today = Template("{{ strftime_now('%d %b %Y') }}", "chat.jinja").render({}, now=day)
    assert today.text == "26 Jul 2024"


def test_generation_blocks_are_found():
    text = "{% for m in ms %}[{% generation %}{{ m }}{% endgeneration %}]{% endfor %}"
    rendered = Template(text, "chat.jinja").render({"ms": ["ab", "c"]})
    assert rendered.text == "[ab][c]"
    assert rendered.spans == ((1, 3), (5, 6))


ESCAPES = {
    "the class of a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by name": "{{ messages['__class__'] }}",
    "by a filter": "{{ messages | attr('__class__') }}",
    "the globals of a function": "{{ raise_exception.__globals__ }}",
    "Jinja's own": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "the template itself": "{{ self.__init__ }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
    "a change of what it is given": "{{ messages.append(1) }}",
    "a namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
}


@pytest.mark.parametrize("case", ESCAPES)
def test_no_way_out(case: str):
    with pytest.raises(UserError, match=r"chat\.jinja, line 2: .*tries to leave its sandbox"):
        render("\n" + ESCAPES[case], messages=[])


@pytest.mark.parametrize(
    "text", ["(1).to_bytes(9, 'big')", "'x'.encode()", "m.translate({97: m})", "m.expandtabs(9)"]
)
def test_methods_that_make_much_of_little_are_not_there(text: str):
    with pytest.raises(UserError, match=r"chat\.jinja, line 1: .* is not for templates"):
        render("{{ " + text + " }}", m="a")


def test_there_are_no_files():
    for text in ("{% include 'a' %}", "{% import 'a' as a %}", "{% extends 'a' %}"):
        with pytest.raises(UserError, match="no loader for this environment"):
            render(text)


MISTAKES = {
    "syntax": ("a\n{% if %}", r"chat\.jinja, line 2: the chat template has a syntax error: Expe"),
    "an unknown tag": ("\n\n{% nope %}", r"chat\.jinja, line 3: .*unknown tag 'nope'"),
    "what it says": ("{{ raise_exception('no system') }}", r"chat\.jinja: .*says: no system"),
    "a type": ("\n{{ 'a' + 1 }}", r"chat\.jinja, line 2: .*cannot write these messages: TypeError"),
    "a name": ("{{ a.b.c }}", r"chat\.jinja, line 1: .*'a' is undefined"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_have_their_file_and_line(case: str):
    text, message = MISTAKES[case]
    with pytest.raises(UserError, match=message):
        render(text)


def test_what_a_template_may_write_by_itself():
    assert literals("<a>{{ '<b>' + m['content'] }}").split("\0") == ["<a>", "<b>", "content"]
    assert literals("{% if %}") == ""
