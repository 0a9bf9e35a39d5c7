# SPDX-License-Identifier: Apache-2.0
"""`griffin eval` names its evaluations, and finds them."""

import importlib.util

import pytest

from eval.eval_cli import EVALUATIONS, main
from recurrentgemma.errors import UserError
from recurrentgemma.subcommands import Subcommand


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_are_there(name: str):
    module, function = EVALUATIONS[name].target.split(":")
    assert importlib.util.find_spec(module) is not None
    assert callable(getattr(importlib.import_module(module), function))


def test_one_is_called_with_its_arguments(monkeypatch: pytest.MonkeyPatch, capsys):
    target = f"{main.__module__}:usage"
    monkeypatch.setitem(EVALUATIONS, "fake", Subcommand(target, "for a test"))
    with pytest.raises(TypeError, match="takes 0 positional arguments but 1 was given"):
        main(["fake", "--data"])
    assert main(["--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("  fake ")]


def test_unknown_ones_are_named(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(EVALUATIONS, "perplexity", Subcommand("eval.eval_cli:usage", "a test"))
    assert main([]) == 2
    assert "evaluations:" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"'perplexty' is no evaluation \(did you mean 'perplex"):
        main(["perplexty"])
