# SPDX-License-Identifier: Apache-2.0
"""The code in the documentation: which blocks are run, and which are not, and why.

    python tests/docs/blocks.py

A fenced block says its language. `python` and `bash` are run by test_blocks.py, those of a page in
turn, in a folder that has what world.py puts there. A comment on the lines above a block says why
it is not run:

    <!-- not run: it needs a TPU -->          test_commands.py still reads its commands
"""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs")
RUN = ("python", "bash")
SHOWN = ("text", "json", "yaml", "{toctree}", "{eval-rst}", "{griffin-commands}")
FENCE = re.compile(
    r"(?P<marks>(?:^<!--.*?-->\n+)*)^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S
)
MARK = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->", re.S)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block. not_run: the reason, or ""."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each shell command, without comments, pipes and what follows them."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [line for line in lines if line]

    def griffin_commands(self) -> Iterator[list[str]]:
        """The arguments of each `griffin` in the block, up to a pipe, `;`, `&` or `>`."""
        for words in self.commands():
            for start, word in enumerate(words):
                value = start and words[start - 1].startswith("--")  # `--to griffin`
                if word.rsplit("/", 1)[-1] == "griffin" and not value:
                    ends = (
                        n
                        for n, w in enumerate(words)
                        if n > start and w in ("|", ";", "&", "&&", ">")
                    )
                    yield words[start + 1 : next(ends, len(words))]


def pages(root: Path = ROOT) -> list[Path]:
    paths = [root / page for page in PAGES]
    return [p for page in paths for p in (sorted(page.rglob("*.md")) if page.is_dir() else [page])]


def blocks(page: Path, root: Path = ROOT) -> list[Block]:
    text = page.read_text("utf-8")
    listed = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.end("marks")) + 1
        where = page.relative_to(root).as_posix()
        reasons = " ".join(MARK.findall(match["marks"]))
        not_run = " ".join(reasons.split())
        listed.append(Block(where, line, match["language"], match["text"], not_run))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    every = [block for page in pages() for block in blocks(page)]
    code = [block for block in every if block.language in RUN]
    left = [block for block in code if block.not_run]
    print(f"{len(code)} blocks of code in {len(pages())} pages; {len(code) - len(left)} are run.")
    for block in left:
        print(f"  {block}: not run: {block.not_run}")


if __name__ == "__main__":
    main()
