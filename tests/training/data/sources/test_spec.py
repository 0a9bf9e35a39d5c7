# SPDX-License-Identifier: Apache-2.0
"""How a source is written, and what is no source."""

from pathlib import Path

import pytest

from training.data.sources import open_data_source, open_text_source
from training.data.sources.spec import absolute_spec, parse_spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jsnl:a", r"unknown kind 'jsnl'; did you mean 'jsonl'\? The kinds are text:GLOB"),
        ("csv:a", "unknown kind 'csv'; the kinds are text:GLOB.*; jsonl:GLOB"),
        ("books", "'books' names no kind of source; write text:books, or one of"),
        ("jsonl:", r"'jsonl:' names no files; write jsonl:GLOB"),
        ("a/b.parquet", "write parquet:a/b.parquet"),
        ("text:none/*.txt", r"no file matches 'none/\*.txt' \(looked from "),
        ("jsonl:a?column=text", r"'column=text' is no option of jsonl; write jsonl:GLOB\[\?field="),
        ("text:a?field=text", "no option of text"),
        ("jsonl:a?field=", "'field=' is no option"),
        ("tfds:a b", "expected tfds:NAME"),
    ],
)
def test_a_spec_that_means_nothing(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data_source(spec)


def test_a_question_mark_in_a_pattern_stays_a_wildcard(tmp_path: Path) -> None:
    for name in ("a1.txt", "a2.txt", "b1.txt", "a[1].txt"):
        (tmp_path / name).write_text(name)
    assert len(open_data_source(f"text:{tmp_path}/a?.txt")) == 2
    assert (
        open_text_source(f"text:{tmp_path}/a[1].txt")[0] == "a[1].txt"
    )  # a file of that very name
    spec = parse_spec("jsonl:a?.jsonl?field=x")
    assert (spec.where, dict(spec.options)) == ("a?.jsonl", {"field": "x"})


def test_a_folder_is_told_how_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; name its files: jsonl:.*/\*\*/\*\.jsonl"):
        open_data_source(f"jsonl:{tmp_path}")
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=f"names no kind of source; write arrayrecord:{tmp_path}"):
        open_data_source(str(tmp_path))


def test_a_source_named_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec, expected in (
        ("text:a/../b/**/*.txt", f"text:{tmp_path}/b/**/*.txt"),
        ("jsonl:a?.jsonl?field=x", f"jsonl:{tmp_path}/a?.jsonl?field=x"),
        ("text:/x/y.txt", "text:/x/y.txt"),
        ("tfds:a/b:train?feature=c&data_dir=d", f"tfds:a/b:train?feature=c&data_dir={tmp_path}/d"),
        ("tfds:a?data_dir=gs://bucket/d", "tfds:a?data_dir=gs://bucket/d"),
        ("npm:a/b?field=c", "npm:a/b?field=c"),
    ):
        assert absolute_spec(spec) == expected
        assert absolute_spec(expected) == expected


def test_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern is of what is below the working directory, or the home, whatever those are called:
    `project [1]` became part of the pattern, in which nothing matched."""
    folder = tmp_path / "project [1]?x=1*"
    (folder / "texts").mkdir(parents=True)
    for name in ("a1.txt", "a2.txt"):
        (folder / "texts" / name).write_text(name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for pattern, count in (
        ("texts/a?.txt", 2),
        ("../*1*/texts/*.txt", 2),
        ("~/texts/*", 2),
        ("texts/a1.txt", 1),
    ):
        absolute = absolute_spec(f"text:{pattern}")
        assert absolute_spec(absolute) == absolute
        for spec in (f"text:{pattern}", absolute):
            assert len(open_data_source(spec)) == count
