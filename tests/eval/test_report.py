# SPDX-License-Identifier: Apache-2.0
"""A report holds all of its results inside of itself."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.report import main, page
from eval.results import Table, open_results
from recurrentgemma.errors import UserError


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for name, loss in (("one", 1.5), ("two & three", None)):
        with open_results(tmp_path / name, kind="perplexity", settings={"data": "<text>"}) as out:
            table = Table("Loss of <all>", ["model", "loss"], [["<text>a", loss]])
            draw = {"loss": lambda path: path.write_text("<svg><text>drawn</text></svg>")}
            out.finish({"loss": loss}, tables=[table], plots=draw)
    return [tmp_path / "one", tmp_path / "two & three"]


class Tags(HTMLParser):
    """Counts tags, and sees to it that each is closed in its turn."""

    VOID = ("meta", "img")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(folders: list[Path], tmp_path: Path, capsys):
    arguments = [*map(str, folders), "--out", str(tmp_path / "page.html"), "--title", "Both <1>"]
    assert main(arguments) == 0
    assert "page.html: 2 results" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text("utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert tags.counts["h2"] == tags.counts["img"] == 2
    assert tags.counts["table"] == 4
    assert "text" not in tags.counts, "text of a result was taken for a tag"
    assert "<title>Both &lt;1&gt;</title>" in text
    assert "two &amp; three" in text
    assert '<td class="number">1.5000</td>' in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []


def test_what_is_not_there_is_named(folders: list[Path], tmp_path: Path):
    with pytest.raises(UserError, match="no results to report"):
        page([], title="")
    with pytest.raises(UserError, match=r"has no result.json"):
        page([tmp_path], title="")
    (folders[0] / "loss.svg").unlink()
    with pytest.raises(UserError, match=r"loss.svg is missing"):
        page(folders, title="")
    with pytest.raises(UserError, match="there is no directory"):
        main([str(folders[1]), "--out", str(tmp_path / "nowhere" / "page.html")])
