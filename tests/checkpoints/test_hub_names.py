# SPDX-License-Identifier: Apache-2.0
"""Paths and names: which is which, without asking anybody."""

from pathlib import Path

import pytest

from checkpoints.hub_names import (
    Name,
    hint,
    read_name,
    short_title,
    title,
    with_revision,
    without_revision,
)
from recurrentgemma.errors import UserError
from tests.checkpoints.fake_hub import commit_of

COMMIT = commit_of("some")


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run, and a folder that has the name of a model on the hub."""
    monkeypatch.chdir(tmp_path)
    for folder in ("mine/first/checkpoints", "google/recurrentgemma-2b", "runs/demo"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "shown", "exact"),
    [
        ("google/recurrentgemma-2b-it", "google/recurrentgemma-2b-it", False),
        ("google/recurrentgemma-2b-it@main", "google/recurrentgemma-2b-it@main", False),
        ("a/b.c_d@refs/pr/4", "a/b.c_d@refs/pr/4", False),
        (f"a/b@{COMMIT}", f"a/b@{COMMIT}", True),
        ("hf:google/recurrentgemma-2b", "google/recurrentgemma-2b", False),
        ("hf:runs/demo", "runs/demo", False),
        ("runs/demo@main", "runs/demo@main", False),
        (
            "kaggle:google/recurrentgemma/flax/2b-it",
            "kaggle:google/recurrentgemma/flax/2b-it",
            False,
        ),
        (
            "kaggle:google/recurrentgemma/pyTorch/9b/1",
            "kaggle:google/recurrentgemma/pyTorch/9b/1",
            True,
        ),
    ],
)
def test_names(text: str, shown: str, exact: bool):
    name = read_name(text)
    assert name is not None
    assert (str(name), name.is_exact) == (shown, exact)
    assert read_name(f"{'hf:' if name.hub == 'huggingface' else ''}{name}") == name


@pytest.mark.parametrize(
    "named",
    [
        "google/recurrentgemma-2b",  # a folder here
        Path("google/recurrentgemma-2b-it"),
        "runs/demmo",
        "mine/second",  # beside a run of ours
        "./a/b", "../a", "/a/b", "~/a", ".", "",
        "demo", "recurrentgemma-2b-it", "a/b/c", "a/b.safetensors", "a/b.PT", "a/tokenizer.model",
        "a\\b", "a b/c", "a/b--c", "a/b@", "a/../b", "-a/b", "bytes", "C:/a",
    ],
)  # fmt: skip
def test_paths(named: str | Path):
    assert read_name(named) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kaggle:google/recurrentgemma", "expected kaggle:OWNER/MODEL/FRAMEWORK/VARIATION"),
        ("kaggle:google/recurrentgemma/flax/2b/x", "perhaps with /VERSION"),
        ("kaggle:google/recurrentgemma/keras/2b", "as FRAMEWORK flax, pytorch, transformers"),
        ("hf:recurrentgemma-2b", "expected hf:OWNER/NAME, perhaps with @REVISION"),
        ("https://huggingface.co/google/x-it/tree/main", "is given by its name: google/x-it$"),
        ("hf.co/google/x", "is given by its name: google/x$"),
        ("hf://google/x", "is given by its name: google/x$"),
    ],
)
def test_what_begins_like_a_name(text: str, message: str):
    with pytest.raises(UserError, match=message):
        read_name(text)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            "runs/demmo",
            " (did you mean 'demo'?); a model of that name on Hugging Face's hub is given as "
            "hf:runs/demmo",
        ),
        ("mine/frist", " (did you mean 'first'?); a model of that name on Hugging Face's hub is "
                       "given as hf:mine/frist"),
        ("recurrentgemma-2b-it", " (did you mean 'google/recurrentgemma-2b-it'?)"),
        (Path("google/recurrentgemma-9b"), " (did you mean 'recurrentgemma-2b'?); a model of "
         "that name on Hugging Face's hub is given as a string, not as a Path"),
        ("./nothing/like/it", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_missing_path_may_have_meant(named: str | Path, message: str):
    assert hint(named) == message


def test_titles():
    assert title("mine/first") == "first"
    assert title("google/recurrentgemma-2b-it@main") == "google/recurrentgemma-2b-it"
    assert short_title("google/recurrentgemma-2b-it@main") == "recurrentgemma-2b-it"
    assert short_title("kaggle:google/recurrentgemma/flax/2b-it/1") == "recurrentgemma-2b-it"
    assert short_title("mine/first/.") == "first"


def test_the_two_fields_of_peft():
    assert with_revision("a/b", "v1") == "a/b@v1"
    assert with_revision("a/b", None) == "a/b"
    assert with_revision("mine/first", "v1") == "mine/first"
    assert without_revision(f"a/b@{COMMIT}") == ("a/b", COMMIT)
    assert without_revision("mine/first") == ("mine/first", None)
    assert without_revision("") == ("", None)
    assert Name("huggingface", "a/b").same_model(Name("huggingface", "a/b", "v1"))
