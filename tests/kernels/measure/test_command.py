# SPDX-License-Identifier: Apache-2.0
"""The options of a module that is run with `python -m`."""

import sys
import types

import pytest

from kernels.measure.command import options


def test_it_is_named_as_it_is_called_and_refuses_what_it_does_not_know(monkeypatch, capsys):
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="kernels.measure.some_bench")  # type: ignore
    monkeypatch.setitem(sys.modules, "__main__", main)
    parser = options("What it measures.\n\n    and how")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m kernels.measure.some_bench" in shown
    assert "What it measures.\n\n    and how" in shown  # not filled
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--quick"])
    assert stop.value.code == 2
    assert "--quick" in capsys.readouterr().err


def test_a_script_has_its_file_as_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert "python -m" not in options(None).format_usage()
