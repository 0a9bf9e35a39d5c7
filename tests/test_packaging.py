# SPDX-License-Identifier: Apache-2.0
"""pyproject.toml and requirements.lock agree, and never bring PyTorch."""

import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def normal(requirement: str) -> str:
    """The name in a requirement, as package indexes compare it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_every_line_of_the_lock_is_an_exact_version():
    assert [
        line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)
    ] == []


def test_the_lock_pins_everything_that_we_ask_for():
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {normal(one) for one in asked} - {normal(line) for line in LOCK} == set()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is for Python 3.11")
def test_the_lock_pins_what_our_dependencies_ask_for():
    locked = {normal(line) for line in LOCK} | {"setuptools"}  # which pip freeze leaves out
    missing = {
        (name, normal(one))
        for name in locked
        for one in (requires(name) if name != "setuptools" else None) or []
        if ";" not in one and normal(one) not in locked
    }
    assert missing == set()


def test_nothing_brings_torch():
    assert [line for line in LOCK if normal(line).startswith(("torch", "nvidia", "triton"))] == []


def test_the_bounds_admit_jax_on_both_sides_of_python_3_12():
    [jax] = [one for one in PROJECT["dependencies"] if normal(one) == "jax"]
    bounds = SpecifierSet(jax.removeprefix("jax"))
    assert [one for one in ("0.10.1", "0.10.2", "0.11.2", "0.12.0") if one in bounds] == [
        "0.10.2",
        "0.11.2",
    ]
