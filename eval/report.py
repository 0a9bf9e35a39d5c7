# SPDX-License-Identifier: Apache-2.0
"""`griffin report`: one HTML page of several evaluations, which needs nothing beside it."""

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from checkpoints.files import naming, new_file
from eval.results import as_text, flat, read_result
from recurrentgemma.errors import UserError

EXAMPLES = """One self-contained HTML page of the results of `griffin eval ... --out DIR`.

Tables and plots are inside of it: it may be sent or put on a server as it is.

examples:
  griffin report results/perplexity results/extrapolation
  griffin report results/* --out page.html --title "Griffin at 7M parameters"
"""
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
LOOK = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
h2 { border-bottom: 1px solid #ddd; margin-top: 3rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #eee; }
td.number { text-align: right; }
img { max-width: 100%; }
code, .settings td { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
details { margin: .5rem 0; color: #555; }
nav a { margin-right: 1rem; }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that `griffin eval --out` wrote."""
    out: Path = Path("report.html")
    """The page to write."""
    title: str = "Results"
    """Of the page."""


def main(argv: list[str]) -> int:
    """Write the page. Raises UserError: a folder has no result that is whole."""
    arguments = tyro.cli(ReportArguments, prog="griffin report", description=EXAMPLES, args=argv)
    text = page(arguments.folders, title=arguments.title)
    if not arguments.out.parent.is_dir():
        raise UserError(f"there is no directory {arguments.out.parent} to write a page in")
    with naming(arguments.out), new_file(arguments.out) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(f"{arguments.out}: {len(arguments.folders)} results, {len(text.encode()):,} bytes")
    return 0


def page(folders: Sequence[Path], *, title: str) -> str:
    """The HTML of a page of the results in these folders, in their order.

    Raises UserError: there is none, one has no result that is whole, or a plot of it is missing.
    """
    if not folders:
        raise UserError("no results to report: give the --out of one `griffin eval` or more")
    sections, links = [], []
    for number, folder in enumerate(folders):
        name = f"result-{number}"
        heading = html.escape(folder.name or str(folder))
        links.append(f'<a href="#{name}">{heading}</a>')
        sections.append(f'<h2 id="{name}">{heading}</h2>\n{_section(folder)}')
    head = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{head}</title>\n'
        f"<style>{LOOK}</style>\n<h1>{head}</h1>\n<nav>{' '.join(links)}</nav>\n"
        + "\n".join(sections)
        + "\n</html>\n"
    )


def _section(folder: Path) -> str:
    record = read_result(folder)
    plots = "\n".join(_plot(folder / name) for name in record["plots"])
    tables = "\n".join(_table(table) for table in record["tables"])
    settings = {
        **flat(record["settings"]),
        **{f"version of {name}": version for name, version in record["versions"].items()},
    }
    return (
        f"<p><code>{html.escape(record['command'])}</code></p>\n{plots}\n{tables}\n"
        f"<details><summary>Settings</summary>{_settings(settings)}</details>"
    )


def _plot(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing, and result.json beside it names it: evaluate again")
    content = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(path.stem.replace("_", " "))
    return f'<p><img alt="{alt}" src="data:{TYPES[path.suffix]};base64,{content}"></p>'


def _table(table: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table["columns"])
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table["rows"])
    return f"<table><caption>{html.escape(table['title'])}</caption><tr>{head}</tr>\n{rows}</table>"


def _cell(value: Any) -> str:
    kind = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{kind}>{html.escape(as_text(value))}</td>"


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in settings.items()
    )
    return f'<table class="settings">{rows}</table>'
