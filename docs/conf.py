# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: `make docs` writes docs/_build/html and takes warnings for errors.

Pages are Markdown (MyST), so that they read well on GitHub, too. Nothing in the result is fetched
from the network: no fonts, no scripts, no search service.
"""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import griffin_lm  # noqa: E402
from eval.eval_cli import EVALUATIONS  # noqa: E402
from serving.bench.bench_cli import BENCHES  # noqa: E402

project = "griffin-lm"
author = "the authors of griffin-lm"
copyright = author
release = version = griffin_lm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]  # shapes in docstrings are not Python
myst_heading_anchors = 3
highlight_language = "none"
default_role = "code"  # docstrings write `name`
html_theme = "furo"
html_title = "griffin-lm"
html_static_path = []
html_show_sourcelink = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

MARKS = re.compile(r"(?<![`\\])([*|]|_(?=\W|$))(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)")
"""Characters outside of backticks that reStructuredText takes for marks."""
PARAMETER = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")
ITEM = re.compile(r"  [\w`*, ]+: ")


class Commands(Directive):
    """`griffin --help`, then every verb's, as they print."""

    def run(self) -> list[nodes.Node]:
        import contextlib
        import io

        def printed(*arguments: str) -> str:
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                griffin_lm.main(list(arguments))
            return text.getvalue()

        os.environ["COLUMNS"] = "100"
        sections: list[nodes.Node] = []
        tables = {"eval": EVALUATIONS, "bench": BENCHES}
        verbs = [
            f"{verb} {name}".strip()
            for verb in griffin_lm.VERBS
            for name in tables.get(verb, ("",))
        ]
        for verb in ("", *verbs):
            name = f"griffin {verb}".strip()
            section = nodes.section(ids=[nodes.make_id(name)])
            section += nodes.title(text=name)
            text = printed(*verb.split(), "--help")
            section += nodes.literal_block(text, text, language="none")
            sections.append(section)
        return sections


def as_restructured_text(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text with indented examples, parameters as `name: meaning` and indented
    lists of the same form; what reStructuredText wants beside that is put in here."""
    written: list[str] = []
    within = ""  # of what the line before is a part: a parameter, an item of a list, an example

    def begin(kind: str) -> None:
        nonlocal within
        if within != kind:
            written.append("")
        within = kind

    for number, line in enumerate(lines):
        parameter = what != "module" and re.match(PARAMETER, line)
        plain = re.sub(MARKS, r"\\\1", line.strip())
        if not line.strip():
            within = "" if within != "example" else within
            written.append("")
        elif line.startswith("    ") and (within == "example" or not lines[number - 1].strip()):
            if within != "example":
                last = next(n for n in range(len(written) - 1, -1, -1) if written[n])
                written[last] = re.sub(r":*$", "::", written[last])
            within = "example"
            written.append(line)
        elif line.startswith(":") or (within == "field" and line.startswith(" ")):
            begin("field")  # one that napoleon has made
            written.append(line)
        elif parameter:
            begin("parameter")
            written.append(f":param {parameter[1]}: {plain[parameter.end() :]}")
        elif re.match(ITEM, line):
            begin("item")
            written.append(f"- {plain}")
        elif within in ("parameter", "item") and not line.startswith("Raises "):
            written.append(f"  {plain}")
        else:
            begin("prose")
            written.append(plain)
    lines[:] = written


AS_WRITTEN: dict[str, list[str]] = {}


def before_napoleon(app, what, name, thing, options, lines: list[str]) -> None:
    """Of a field's docstring napoleon takes what stands before the first colon for its type."""
    if what in ("attribute", "data", "property"):
        AS_WRITTEN[name] = list(lines)


def after_napoleon(app, what, name, thing, options, lines: list[str]) -> None:
    lines[:] = AS_WRITTEN.pop(name, lines)


def setup(app) -> None:
    app.add_directive("griffin-commands", Commands)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=800)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=900)
