# SPDX-License-Identifier: Apache-2.0
"""`KIND:WHERE?option=value`: how a source of documents is written, and the files that it names."""

import difflib
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recurrentgemma.errors import UserError
from training.data.sources.files import find_urls, is_url

# The options come last, so that a `?` inside a glob stays a wildcard.
_SPEC = re.compile(r"(?P<kind>[a-z_]+):(?P<where>.+?)(?:\?(?P<options>\w+=[^?]*))?", re.DOTALL)

KINDS = {
    "text": "text:GLOB[?part=head or tail]",
    "jsonl": "jsonl:GLOB[?field=text]",
    "chat": "chat:GLOB[?messages=NAME or prompt=NAME&response=NAME][&answers=last&template=none]",
    "parquet": "parquet:GLOB[?column=text]",
    "arrayrecord": "arrayrecord:GLOB or arrayrecord:DIRECTORY of `griffin data tokenize`",
    "tfds": "tfds:NAME[/CONFIG][:VERSION][:SPLIT][?feature=text&data_dir=DIRECTORY]",
    "npm": "npm:PACKAGE/GLOB[?field=text]",
}
_OPTIONS = {
    "text": ("part",),
    "jsonl": ("field",),
    "chat": ("messages", "prompt", "response", "answers", "template"),
    "parquet": ("column",),
    "tfds": ("feature", "data_dir"),
    "npm": ("field",),
}
AT_URLS = ("text", "jsonl", "parquet")  # kinds whose files may be at a URL
_SUFFIXES = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_SUFFIXES |= {".parquet": "parquet", ".array_record": "arrayrecord", ".arrayrecord": "arrayrecord"}


@dataclass(frozen=True)
class SourceSpec:
    """A source as it was written, in its parts."""

    text: str
    kind: str
    where: str
    options: Mapping[str, str]


def parse_spec(
    text: str,
    kinds: Mapping[str, str] = KINDS,
    options_of: Mapping[str, tuple[str, ...]] = _OPTIONS,
) -> SourceSpec:
    """The parts of a spec, of documents or of what has other kinds.

    Raises ValueError: no kind, an unknown kind or an unknown option."""
    match = _SPEC.fullmatch(text)
    known = "; ".join(kinds.values())
    if match is None or (match["kind"] not in kinds and os.path.exists(text)):
        if text.endswith(":") and text[:-1] in kinds:
            raise UserError(f"{text!r} names no files; write {kinds[text[:-1]]}")
        kind = _SUFFIXES.get(Path(text).suffix, "text")
        if os.path.exists(os.path.join(text, "tokens.json")):
            kind = "arrayrecord"
        wanted = (
            f"write {kind}:{text}, or one of {known}" if kind in kinds else f"write one of {known}"
        )
        raise UserError(f"{text!r} names no kind of source; {wanted}")
    kind, where = match["kind"], match["where"]
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, 1)
        hint = f"did you mean {near[0]!r}? The kinds are" if near else "the kinds are"
        raise UserError(f"{text!r}: unknown kind {kind!r}; {hint} {known}")
    options: dict[str, str] = {}
    for pair in (match["options"] or "").split("&") if match["options"] else ():
        name, equals, value = pair.partition("=")
        if not (equals and value) or name not in options_of.get(kind, ()):
            raise UserError(f"{text!r}: {pair!r} is no option of {kind}; write {kinds[kind]}")
        options[name] = value
    return SourceSpec(text, kind, where, options)


def absolute_spec(text: str) -> str:
    """The same source, named from any working directory. Raises UserError as parse_spec, and of a
    URL."""
    spec = parse_spec(text)
    _require_local(spec)
    options = dict(spec.options)
    where = spec.where
    if spec.kind == "npm":
        return text
    if spec.kind != "tfds":
        where = os.path.normpath(os.path.join(glob.escape(os.getcwd()), _from_home(where)))
        literal = os.path.abspath(os.path.expanduser(spec.where))
        if os.path.exists(literal):
            match = _SPEC.fullmatch(f"{spec.kind}:{literal}")
            is_read_so = match is not None and match["where"] == literal  # no `?x=` in a folder
            where = literal if is_read_so else glob.escape(literal)
    elif "data_dir" in options and "://" not in options["data_dir"]:
        options["data_dir"] = os.path.abspath(os.path.expanduser(options["data_dir"]))
    pairs = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{spec.kind}:{where}" + (f"?{pairs}" if pairs else "")


def _require_local(spec: SourceSpec) -> None:
    if spec.kind != "tfds" and is_url(spec.where):
        raise UserError(
            f"{spec.text!r} is a URL; files are read from disk: mount the bucket (`gcsfuse BUCKET "
            f"/mnt/BUCKET`) or copy it, and name the files there; `griffin data tokenize` reads "
            f"URLs of text, jsonl and parquet"
        )


def _from_home(where: str) -> str:
    """A pattern without `~`; in the names of the folders above it `*`, `?` and `[` are literal."""
    home, slash, below = where.partition("/")
    if not home.startswith("~") or os.path.exists(os.path.expanduser(where)):
        return os.path.expanduser(where)
    return glob.escape(os.path.expanduser(home)) + slash + below


def find_files(spec: SourceSpec) -> list[str]:
    """The files that `spec.where` names, sorted by path. `**` goes through folders.

    Those at a URL are named by URLs. Raises ValueError: nothing matches, or it is a folder, or a
    URL of a kind that is read from disk.
    """
    if is_url(spec.where) and spec.kind in AT_URLS:
        if files := find_urls(spec.where):
            return files
        raise UserError(
            f"{spec.text!r}: no file matches; check the bucket, the folder and your rights to it"
        )
    _require_local(spec)
    where = _from_home(spec.where)
    if os.path.isfile(where):
        return [where]
    if os.path.isdir(where):
        ending = next((suffix for suffix, kind in _SUFFIXES.items() if kind == spec.kind), "")
        raise UserError(f"{spec.text!r} is a folder; name its files: {spec.text}/**/*{ending}")
    files = sorted(path for path in glob.glob(where, recursive=True) if os.path.isfile(path))
    if not files:
        raise UserError(
            f"{spec.text!r}: no file matches {where!r} (looked from {os.getcwd()}); quote the "
            f"pattern so that the shell leaves it alone, and check the folder"
        )
    return files


def decode_utf8(raw: bytes, name: str) -> str:
    """The text of `raw`. Raises ValueError that names the document, the byte and the remedy."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start:,}; "
            f"convert it first, for example with `iconv -f latin1 -t utf-8`"
        ) from None
