# SPDX-License-Identifier: Apache-2.0
"""What a template can do, what it cannot reach, and how much it may take."""

import datetime

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text import template_sandbox
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


EXCESSES = {
    "loops in loops": "{% for i in n %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "text in a loop": "{% for i in range(99999) %}{{ m }}{% endfor %}",
    "text that is kept": "{% set x %}{% for i in range(99999) %}{{ m }}{% endfor %}{% endset %}",
    "its own text": "{% set x %}{% for i in n[:2000] %}" + "a" * 640 + "{% endfor %}{% endset %}",
    "a range": "{% for i in range(10**9) %}{% endfor %}",
    "a product": "{{ 'a' * 10**9 }}",
    "a list": "{{ [1] * 10**9 }}",
    "doubled": "{% set ns = namespace(x=m) %}{% for i in range(40) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "joined to itself": "{% set ns = namespace(x=m) %}{% for i in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a number": "{% set ns = namespace(x=9) %}{% for i in range(40) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a power": "{{ 10 ** 10 ** 9 }}",
    "padding": "{{ 'a'.ljust(10**9) }}",
    "a filter": "{{ 'a' | center(10**9) }}",
    "a width": "{{ '{:1000000000}'.format(1) }}",
    "an old width": "{{ '%1000000000d' % 1 }}",
    "a replacement": "{{ m.replace('x', m).replace('x', m) }}",
    "a join": "{{ m.join([m] * 9999) }}",
    "JSON": "{{ ([m] * 99999) | tojson }}",
    "a doubled tuple": "{% set ns = namespace(t=(1,)) %}{% for i in range(36) %}"
    "{% set ns.t = ns.t + ns.t %}{% endfor %}",
    "a list that holds itself": "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}"
    "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "the same as JSON": "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}"
    "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    "a joined range": "{{ range(9000) | join(m) }}",
    "a joined generator": "{{ m.join(range(9000) | map('string')) }}",
    "many fields": "{{ ('%s' * 2000) % ((m,) * 2000) }}",
    "many widths": "{{ ('%9999s' * 2000) % ((1,) * 2000) }}",
    "many new widths": "{{ ('{0:9999}' * 2000).format('a') }}",
    "indented lines": "{{ ('\n' * 10000) | indent(9999, true, true) }}",
    "an indent of text": "{{ ('\n' * 10000) | indent(m, true, true) }}",
    "wrapped words": "{{ ('a ' * 10000) | wordwrap(1, wrapstring=m) }}",
    "a sum of lists": "{{ ([n] * 1000) | sum(start=[]) | length }}more than",
    "a macro's own text": "{% macro f() %}"
    + "a" * 10**5
    + "{{ caller() }}{% endmacro %}{% for i in n %}"
    "{% call f() %}{% endcall %}{% endfor %}",
    "macros": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long template": "a" * (2**20 + 1),
}


@pytest.mark.parametrize("case", EXCESSES)
def test_no_more_than_its_share(case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_sandbox, "STEPS", 10_000)
    monkeypatch.setattr(template_sandbox._Rendering, "__init__", _poor)
    with pytest.raises(
        UserError, match=r"chat\.jinja.*(more than|at most|too large|without an|Range|adds lists)"
    ):
        render(EXCESSES[case], m="x" * 1000, n=[1] * 9999)


def _poor(rendering, now) -> None:
    rendering.now, rendering.steps, rendering.characters = now, 10_000, 2**20
    rendering.written, rendering.spans, rendering.until = 0, [], 1e9


def test_seconds_are_counted_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_sandbox, "CPU_SECONDS", 0.05)
    text = "{% for i in range(99999) %}{% set a = m | upper %}{% endfor %}"
    with pytest.raises(UserError, match=r"takes more than 0\.05 s"):
        render(text, m="x" * 99_999)


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
