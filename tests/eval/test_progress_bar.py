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
