# SPDX-License-Identifier: Apache-2.0
"""`make docs`: the site is built without a warning, and fetches nothing from the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["'](?:https?:)?//[^"']+"""
    r"""|<link[^>]*\srel=["'](?:stylesheet|preconnect|preload)["'][^>]*href=["'](?:https?:)?//[^"']+"""
    r"""|url\(\s*["']?(?:https?:)?//[^)]+|@import\s+["'](?:https?:)?//[^"']+"""
)


def test_the_site(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / "html"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert {"index.html", "training.html", "commands.html", "glossary.html"} <= {
        page.name for page in pages
    }
    for file in [*pages, *(tmp_path / "html").rglob("*.css")]:
        assert not FETCHED.search(file.read_text("utf-8")), file.name
    commands = (tmp_path / "html" / "reference" / "commands.html").read_text("utf-8")
    assert "griffin finetune" in commands
    assert "--lora.rank" in commands


def test_what_would_be_fetched_is_seen():
    for text in (
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "src: url('https://fonts.example/a.woff2')",
    ):
        assert FETCHED.search(text)
    assert not FETCHED.search('<a href="https://example.org">')
