# SPDX-License-Identifier: Apache-2.0
"""The public names of `recurrentgemma`, frozen: others build on exactly these."""

import subprocess
import sys

import pytest

import recurrentgemma as rg

NAMES = {
    "Griffin",
    "GriffinConfig",
    "LanguageModel",
    "Sampling",
    "Session",
    "init_state",
    "insert_slot",
    "load",
    "preset",
    "recurrentgemma_2b",
    "recurrentgemma_9b",
    "state_bytes",
    "take_slot",
    "tiny",
    *(f"griffin_{size}" for size in ("100m", "200m", "400m", "1b", "3b", "7b", "14b")),
    *(f"hawk_{size}" for size in ("100m", "200m", "400m", "1b", "3b", "7b")),
    *(f"mqa_{size}" for size in ("100m", "200m", "400m", "1b", "3b", "7b")),
}


def test_the_names_are_frozen():
    assert {name for names in rg.PUBLIC.values() for name in names.split()} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_is_there(name: str):
    assert callable(getattr(rg, name))
    assert name in dir(rg)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no public name 'grifin'"):
        rg.grifin  # noqa: B018


def test_importing_the_package_does_not_import_jax():
    code = "import sys, recurrentgemma; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
