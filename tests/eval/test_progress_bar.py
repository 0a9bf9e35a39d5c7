# SPDX-License-Identifier: Apache-2.0
"""The bar shows how much is done, and the rate of what this process has done."""

import pytest

from eval import progress_bar


def test_the_rate_is_of_what_was_done_here(monkeypatch: pytest.MonkeyPatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now)
    with progress_bar.progress_bar("scoring", 3_000) as bar:
        bar.update(1_000)
        now = 10.0
        bar.update(2_000, "2.1 bits per byte", expected=4_000)
        bar.say("half of it")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "scoring" in captured.err
    assert "2,000 tokens  100 tokens/s  2.1 bits per byte" in captured.err
    assert "half of it" in captured.err


def test_the_last_update_is_shown(monkeypatch: pytest.MonkeyPatch, capsys):
    """However soon it comes after the one before; and a rate where one is known."""
    now = 0.0
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now)
    with progress_bar.progress_bar("scoring", unit="cells") as bar:
        bar.update(1)
    assert "1 cells" in (first := capsys.readouterr().err)
    assert "cells/s" not in first
    with progress_bar.progress_bar("runs/[a-f]{0}", unit="cells") as bar:
        bar.update(1)
        now = 4.0
        bar.update(2)
        now = 4.1
        bar.update(3, "the last")
    last = capsys.readouterr().err
    assert "3 cells  0.49 cells/s  the last" in last
    assert "runs/[a-f]{0} " in last
