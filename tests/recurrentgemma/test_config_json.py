# SPDX-License-Identifier: Apache-2.0
"""Saved configs of older versions are read as what they did; of others, what is wrong is named."""

import dataclasses
import json
from typing import Literal

import pytest

from recurrentgemma.config_json import from_json, to_json
from recurrentgemma.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise UserError(f"rate={self.rate}: expected at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    inner: Inner = dataclasses.field(default_factory=Inner)
    extra: Inner | None = None
    names: tuple[str, ...] = ()
    fast: bool = True


def test_there_and_back():
    config = Outer(size=3, inner=Inner(rate=1, kind="b"), extra=Inner(), names=("x", "y"))
    fields = json.loads(json.dumps(to_json(config)))
    assert fields["names"] == ["x", "y"]
    assert fields["extra"] == {"rate": 0.5, "kind": "a"}
    assert from_json(Outer, fields) == config


def test_what_is_missing_is_as_it_was_before():
    assert from_json(Outer, {"size": 3}) == Outer(size=3)
    assert from_json(Outer, {"size": 3}, before={"fast": False}) == Outer(size=3, fast=False)
    assert from_json(Outer, {"size": 3, "fast": True}, before={"fast": False}) == Outer(size=3)


def test_old_names():
    renamed = {"length": "size"}
    assert from_json(Outer, {"length": 3}, renamed=renamed) == Outer(size=3)
    with pytest.raises(UserError, match="Outer: 'length' is the old name of 'size'; keep one"):
        from_json(Outer, {"length": 3, "size": 3}, renamed=renamed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 3, "sise": 4}, r"unknown Outer field 'sise' \(did you mean 'size'\?\).*another"),
        ({"size": 3, "inner": {"rat": 1.0}}, r"unknown Outer field 'inner\.rat' .*'inner\.rate'"),
        ({"size": 3, "extra": {"zzz": 1}}, r"unknown Outer field 'extra\.zzz' .*is misspelt, or"),
        ({"inner": {}}, "Outer lacks the fields: size"),
        ({"size": "3"}, "Outer: size='3': Input should be a valid integer"),
        ({"size": 3, "inner": {"kind": "c"}}, r"inner\.kind='c': Input should be 'a' or 'b'"),
        ({"size": 3, "inner": {"rate": -1}}, r"^rate=-1.0: expected at least 0$"),
        ([3], r"Outer: expected an object of fields, got \[3\]"),
    ],
)
def test_what_is_wrong_is_named(fields, message: str):
    with pytest.raises(UserError, match=message):
        from_json(Outer, fields)
