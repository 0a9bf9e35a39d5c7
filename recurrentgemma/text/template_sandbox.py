# SPDX-License-Identifier: Apache-2.0
"""Jinja in a sandbox: a checkpoint's chat template is code of somebody else's.

What a template may use is what transformers gives it: Jinja's own language with loop controls,
`raise_exception`, `strftime_now`, `tojson`, `dict`, `namespace` and `{% generation %}` blocks. It
reaches nothing outside of the values it is given. It may take STEPS steps (rounds of loops and
calls), write CHARACTERS characters and use CPU_SECONDS; whatever asks for more is refused.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from recurrentgemma.errors import TemplateError, UserError
from recurrentgemma.text.template_budget import (
    CHARACTERS,
    RENDERING,
    Rendering,
    TooMuch,
    charge_characters,
    charge_steps,
    charge_text,
    check_growth,
    counted,
    joined,
)

LONGEST = 2**20  # characters of a template
_METHODS = {
    str: (
        "capitalize casefold center count endswith find format format_map index isalnum isalpha "
        "isascii isdecimal isdigit isidentifier islower isnumeric isspace istitle isupper join "
        "ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
    ),
    list: "count index",
    tuple: "count index",
    dict: "get items keys values",
    int: "",
    float: "",
    bytes: "",
}
"""What a template may call of plain values: nothing that makes much of little, but for what
check_growth knows."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """text, and of each `{% generation %}` block where it begins and ends in it."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Template:
    """A template and what people call it, such as the path of its file."""

    text: str
    name: str

    def check(self) -> None:
        """Raises TemplateError for a syntax error, which `render` would find, too."""
        with self._mistakes():
            _compiled(self.text)

    def render(
        self, variables: Mapping[str, Any], *, now: datetime.datetime | None = None
    ) -> Rendered:
        """The text for these variables, which are plain JSON values. now: what strftime_now reads.

        Raises TemplateError, with name and line: a mistake in the template, an attempt to leave the
        sandbox, or more than it may take. UserError: what it says itself with raise_exception.
        """
        with self._mistakes():
            compiled = _compiled(self.text)
        rendering = Rendering(now)
        token = RENDERING.set(rendering)
        parts = []
        try:
            with self._mistakes():
                for part in compiled.generate(**variables):
                    rendering.written += len(part)
                    if rendering.written > CHARACTERS or not rendering.characters:
                        raise TooMuch(f"writes more than {CHARACTERS:,} characters")
                    parts.append(part)
                text = "".join(parts)
        finally:
            RENDERING.reset(token)
        return Rendered(text, tuple(rendering.spans))

    @contextlib.contextmanager
    def _mistakes(self) -> Iterator[None]:
        try:
            yield
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"{self.name}, line {error.lineno}: the chat template has a syntax error: "
                f"{error.message}"
            ) from None
        except SecurityError as error:
            raise TemplateError(
                f"{self._place(error)}: the chat template tries to leave its sandbox: {error}"
            ) from None
        except TooMuch as error:
            raise TemplateError(
                f"{self._place(error)}: the chat template {error}", too_much=True
            ) from None
        except _Refusal as error:
            raise UserError(f"{self.name}: the chat template says: {error}") from None
        except (RecursionError, MemoryError):
            raise TemplateError(
                f"{self.name}: the chat template is nested without an end"
            ) from None
        except Exception as error:  # of any class: the template's code raises it, not ours
            raise TemplateError(
                f"{self._place(error)}: the chat template cannot write these messages: "
                f"{type(error).__name__}: {error}"
            ) from None

    def _place(self, error: BaseException) -> str:
        line, traceback = None, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<template>":
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        return self.name if line is None else f"{self.name}, line {line}"


def literals(text: str) -> str:
    """The texts that a template may write by itself, apart from each other by NUL; "" where it has
    a syntax error."""
    try:
        tree = _environment().parse(text)
    except (jinja2.TemplateSyntaxError, RecursionError):
        return ""
    written = {node.data for node in tree.find_all(nodes.TemplateData)}
    written |= {n.value for n in tree.find_all(nodes.Const) if isinstance(n.value, str)}
    return "\0".join(sorted(written))


class _Refusal(jinja2.TemplateError):
    """What a template says with raise_exception."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset("+*%") | {"**"}

    def tick(self, cost: int) -> None:
        """A round of a loop, of `cost` steps; the call itself is one more."""
        charge_steps(cost)

    def concatenated(self, parts: list[Any]) -> str:
        return joined("", parts)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        sizes = [len(a) for a in args if isinstance(a, list | tuple | range)]
        charge_steps(1 + sum(sizes))  # loop(children) goes through them
        method = getattr(__obj, "__wrapped__", __obj)  # str.format is wrapped by the sandbox
        subject = getattr(method, "__self__", None)
        if isinstance(subject, str):
            if method.__name__ == "join" and args:
                args = (counted(args[0]), *args[1:])
            check_growth(method.__name__, subject, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names.split() and super().is_safe_attribute(obj, attr, value)
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sequence = str | list | tuple
        if operator == "+" and isinstance(left, sequence) and isinstance(right, sequence):
            charge_characters(len(left) + len(right))
        elif operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(count, int):
                    charge_characters(len(value) * max(count, 0))
        elif operator == "%" and isinstance(left, str):
            check_growth("format", left, (right,), {})
        numbers = [n for n in (left, right) if isinstance(n, int)]
        powers = operator == "**" and any(abs(n) > 1000 for n in numbers)
        if powers or any(n.bit_length() > 256 for n in numbers):
            raise TooMuch("makes a number that is too large")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        raise SecurityError(f"{attribute!r} of {type(obj).__name__!r} is not for templates")

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Charging().visit(source), *args, **kwargs)


class _Charging(NodeTransformer):
    """Rounds of loops, and `~`, are charged by the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        tick = nodes.EnvironmentAttribute("tick")
        call = nodes.Call(tick, [nodes.Const(written // 64)], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call.set_lineno(node.lineno)).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        join = nodes.EnvironmentAttribute("concatenated")
        return nodes.Call(join, [nodes.List(node.nodes)], [], None, None).set_lineno(node.lineno)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` around what the model is to write."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        text, rendering = caller(), RENDERING.get()
        rendering.spans.append((rendering.written, rendering.written + len(text)))
        return text


class _Namespace(jinja2.utils.Namespace):
    """Without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that namespace(self=...) works
        self, *positional = args
        values = dict(*positional, **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Dict:
    """`dict` without the class, on which there is more."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


@functools.cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
        finalize=charge_text,
        cache_size=0,
    )
    for name in (
        *("center", "indent", "wordwrap", "batch", "slice", "format", "replace", "join", "sum"),
    ):
        environment.filters[name] = _guarded(name, environment.filters[name])
    for name in ("urlize", "xmlattr", "pprint"):  # which write more than they are given
        del environment.filters[name]
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals |= {"dict": _Dict(), "namespace": _Namespace}
    del environment.globals["lipsum"]
    return environment


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> jinja2.Template:
    if len(text) > LONGEST:
        raise TooMuch(f"has {len(text):,} characters: expected at most {LONGEST:,}")
    return _environment().from_string(text)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    takes_first = getattr(function, "jinja_pass_arg", None) is not None

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        subject, *others = args[takes_first:]
        if name == "join":
            subject = counted(subject)
        check_growth(name, subject, others, kwargs)
        return function(*args[:takes_first], subject, *others, **kwargs)

    return guarded


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers': Jinja's own escapes HTML."""
    if isinstance(indent, int) and indent > 100:
        raise TooMuch("indents JSON by more than 100")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    parts = []
    for part in encoder.iterencode(value):
        charge_steps(1)
        charge_characters(len(part))
        parts.append(part)
    return "".join(parts)


def _raise_exception(message: str) -> None:
    raise _Refusal(str(message))


def _strftime_now(pattern: str) -> str:
    return (RENDERING.get().now or datetime.datetime.now()).strftime(pattern)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")
