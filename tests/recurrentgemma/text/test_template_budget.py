# SPDX-License-Identifier: Apache-2.0
"""A template takes no more than its share, however it asks for more."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text import template_budget
from tests.recurrentgemma.text.test_template_sandbox import render

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
    monkeypatch.setattr(template_budget, "STEPS", 10_000)
    monkeypatch.setattr(template_budget.Rendering, "__init__", _poor)
    with pytest.raises(
        UserError, match=r"chat\.jinja.*(more than|at most|too large|without an|Range|adds lists)"
    ):
        render(EXCESSES[case], m="x" * 1000, n=[1] * 9999)


def _poor(rendering, now) -> None:
    rendering.now, rendering.steps, rendering.characters = now, 10_000, 2**20
    rendering.written, rendering.spans, rendering.until = 0, [], 1e9


def test_seconds_are_counted_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_budget, "CPU_SECONDS", 0.05)
    text = "{% for i in range(99999) %}{% set a = m | upper %}{% endfor %}"
    with pytest.raises(UserError, match=r"takes more than 0\.05 s"):
        render(text, m="x" * 99_999)
