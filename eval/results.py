# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation: its numbers, its plots, and while it runs how far it has come.

    OUT/result.json               what was measured, of what, by what
    OUT/NAME.svg                  plots; and perhaps other files
    OUT/progress/NAME.safetensors values and arrays that were kept; gone when result.json is there
    OUT/progress/settings.json    what they were kept of

Each file is there whole or not at all, so that an evaluation which was killed goes on with what it
kept last. It goes on with the same settings only (the fingerprints of model and data and all
options that change a number); others are refused by name.

    with open_results(out, kind="perplexity", settings=settings) as results:
        if results.finished is None:
            last = results.kept("rows")
            ...
            results.keep("rows", {"next": 7}, {"nats": nats})
            ...
            results.finish(result, tables=[table], plots={"loss": draw})
"""

import contextlib
import importlib.util
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import griffin_lm
from checkpoints.files import locked, naming, new_file, url_in
from recurrentgemma.errors import MissingExtra, UserError

RESULT, PROGRESS, SETTINGS = "result.json", "progress", "settings.json"
CELLS = "cells"  # finished ones, where a study has such (eval/cells.py)
VERSION = 1
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


class Table(NamedTuple):
    """A table of a result, as a report shows it: numbers, text, or None where there is none."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Kept(NamedTuple):
    """What was kept under a name."""

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Results:
    """One evaluation's folder, or none: then nothing is kept and nothing is written."""

    def __init__(self, folder: Path | None, kind: str, settings: Mapping[str, Any]) -> None:
        self.folder, self.kind = folder, kind
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.finished: dict[str, Any] | None = None
        """The content of result.json, where this evaluation is over already."""

    def keep(
        self,
        name: str,
        values: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep JSON values and arrays under a name, in place of what was kept under it before."""
        if self.folder is None:
            return
        folder = self.folder / PROGRESS
        if not folder.is_dir():
            folder.mkdir()
            _write_json(folder / SETTINGS, {"kind": self.kind, "settings": self.settings})
        tensors = {key: np.ascontiguousarray(array) for key, array in (arrays or {}).items()}
        path = folder / f"{name}.safetensors"
        with naming(path), new_file(path) as unfinished:
            unfinished.write_bytes(save(tensors, {"values": json.dumps(values)}))

    def kept(self, name: str) -> Kept | None:
        """What was kept last under a name, perhaps by a process that was killed."""
        path = self.folder and self.folder / PROGRESS / f"{name}.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                values = json.loads((file.metadata() or {})["values"])
                return Kept(values, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, and begin anew") from None

    def kept_names(self) -> list[str]:
        """Under which names something is kept, sorted."""
        if self.folder is None:
            return []
        return sorted(path.stem for path in (self.folder / PROGRESS).glob("[!.]*.safetensors"))

    def finish(
        self,
        result: Mapping[str, Any],
        *,
        tables: Sequence[Table] = (),
        plots: Mapping[str, Callable[[Path], None]] | None = None,
        files: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> dict[str, Any]:
        """Write result.json and the plots, and drop what was kept. Returns result.json's content.

        result: numbers by name, JSON. tables: of the report. plots: by file name without its
        ending, what draws one to a path; files: by file name, what writes one. Both are called only
        where there is a folder.
        """
        written = {f"{name}.svg": draw for name, draw in (plots or {}).items()} | dict(files or {})
        record = {
            "format": "griffin-lm evaluation",
            "version": VERSION,
            "kind": self.kind,
            "command": command(),
            "versions": versions(),
            "settings": self.settings,
            "result": result,
            "tables": [table._asdict() for table in tables],
            "plots": [f"{name}.svg" for name in plots or {}],
            "files": list(files or {}),
        }
        if self.folder is not None:
            for name, write in written.items():
                with naming(self.folder / name), new_file(self.folder / name) as unfinished:
                    write(unfinished)
            _write_json(self.folder / RESULT, record)
            shutil.rmtree(self.folder / PROGRESS, ignore_errors=True)
        self.finished = json.loads(json.dumps(record))
        assert self.finished is not None
        return self.finished


@contextlib.contextmanager
def open_results(
    folder: Path | None, *, kind: str, settings: Mapping[str, Any]
) -> Iterator[Results]:
    """The results of an evaluation in a folder, which is made, and which nobody else writes
    meanwhile.

    kind: of evaluation, a subcommand of `griffin eval`. settings: all that changes its numbers, by
    name, nested where that helps; JSON.
    Raises UserError: the folder has results, or progress, of another kind or of other settings;
    something else is there; matplotlib is missing.
    """
    results = Results(folder, kind, settings)
    if folder is None:
        with _told_when_interrupted(results):
            yield results
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra(
            "--out draws plots, which needs matplotlib: run `pip install 'griffin-lm[eval]'`"
        )
    if (url := url_in(folder)) is not None:
        raise UserError(f"--out {url} is a URL: expected a folder, on this machine or a mount")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --out takes a folder, which is made")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / RESULT).is_file():
            record = read_result(folder)
            _check_same(folder, record, results)
            results.finished = record
            shutil.rmtree(folder / PROGRESS, ignore_errors=True)  # of one killed at its very end
        elif (folder / PROGRESS / SETTINGS).is_file():
            _check_same(folder, json.loads((folder / PROGRESS / SETTINGS).read_text()), results)
        else:
            shutil.rmtree(folder / PROGRESS, ignore_errors=True)  # killed before it kept anything
        with _told_when_interrupted(results):
            yield results


@contextlib.contextmanager
def _told_when_interrupted(results: Results) -> Iterator[None]:
    """After Ctrl-C, a line on stderr: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if results.folder is None:
            line = "nothing is kept without --out DIR"
        elif results.finished is not None:
            line = f"{results.folder / RESULT} is there already"
        elif results.kept_names():
            line = f"{results.folder / PROGRESS} has what was kept last: the same command goes on"
        else:
            line = f"nothing was kept in {results.folder} yet: the same command begins anew"
        print(f"interrupted: {line}", file=sys.stderr)
        raise


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a folder's result.json. Raises UserError: it is missing, damaged, or of a
    later version."""
    path = folder / RESULT
    if not path.is_file():
        running = any((folder / name).is_dir() for name in (PROGRESS, CELLS))
        why = (
            "what it is of has not come to its end: run the same command again"
            if running
            else "expected the --out of a `griffin eval`, or a folder of `griffin recipe`"
        )
        raise UserError(f"{folder} has no {RESULT}: {why}")
    try:
        record = json.loads(path.read_text("utf-8"))
        version = record["version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: evaluate again, into another folder") from None
    if version != VERSION:
        raise UserError(
            f"{path} has version {version}, and this griffin-lm reads version {VERSION}: it was "
            "written by a newer one; update this one"
        )
    return record


def show(record: Mapping[str, Any], *, as_json: bool, folder: Path | None = None) -> None:
    """Print a result's tables, where its folder is, and with --json the result in a last line."""
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text  # so that the brackets of a glob are no markup

    console = Console(width=max(Console().width, 100))
    for table in record["tables"]:
        console.print(Text(table["title"], "italic"))
        shown = Shown(box=None)
        for column in table["columns"]:
            shown.add_column(Text(column), overflow="fold")
        for row in table["rows"]:
            shown.add_row(*(Text(as_text(cell)) for cell in row))
        console.print(shown, highlight=False)
    if folder is not None:
        print(f"{folder / RESULT}", *record["plots"], *record["files"])
    if as_json:
        print(json.dumps(record["result"]))


def as_text(value: Any) -> str:
    """A cell of a table for people."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.4g}"
        if (abs(value) >= 10_000 or 0 < abs(value) < 0.01)
        else f"{value:.4f}"
    )


def command() -> str:
    """The command that runs, as it can be given again."""
    name = Path(sys.argv[0]).name
    words = ["griffin"] if name in ("griffin", "griffin_lm.py") else ["python", name]
    return shlex.join([*words, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    ours = {"griffin-lm": griffin_lm.__version__, "python": platform.python_version()}
    return ours | {name: metadata.version(name) for name in PACKAGES}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by names with dots."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[f"{prefix}{name}"] = value
    return named


def _check_same(folder: Path, record: Mapping[str, Any], results: Results) -> None:
    if record.get("kind") != results.kind:
        raise UserError(
            f"{folder} has results of {record.get('kind')}, and this is {results.kind}: give "
            "another --out"
        )
    there, here = flat(record["settings"]), flat(results.settings)
    different = [name for name in here | there if here.get(name) != there.get(name)]
    if different:
        names = "; ".join(f"{n} {there.get(n)!r} (here {here.get(n)!r})" for n in different)
        raise UserError(
            f"{folder} has an evaluation with {names}: give another --out, or what it was begun "
            "with"
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with naming(path), new_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
