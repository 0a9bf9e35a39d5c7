"""A file of requests."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


def _line(custom_id: str, body: dict[str, Any], url: str = "/v1/completions") -> str:
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(line) + "\n"


@pytest.fixture(scope="session")
def line() -> Callable[..., str]:
    """`line(custom_id, body, url)`: as it stands in a file."""
    return _line


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """`asked(lines)`: a file with these lines."""

    def write(lines: Sequence[str]) -> Path:
        path = tmp_path / "asked.jsonl"
        path.write_text("".join(lines))
        return path

    return write
