# SPDX-License-Identifier: Apache-2.0
"""What is recorded of which step, by numbers alone: nothing here is a language model."""

from typing import Any

import jax.numpy as jnp
import pytest

from training.observe.progress import Diverged, TrainingProgress
from training.observe.stopwatch import Stopwatch


class Records:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.is_closed = False

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.is_closed = True

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(record.get(name) for name in names) for record in self.records]


def progress(tracker: Records, **options: Any) -> TrainingProgress:
    watch = Stopwatch(items_per_step=4, unit="frames")
    given: dict[str, Any] = {"steps": 7, "log_every": 3} | options
    return TrainingProgress([tracker], watch, **given)


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys):
    """The log of a batch job shows that it trains; of a short run the end is enough."""
    for every_s, lines in ((0.0, ["step 1 of 3: mean loss 0.500", "step 2 of 3: "]), (60.0, [])):
        monkeypatch.setattr("training.observe.progress.LINE_EVERY_S", every_s)
        with progress(Records(), steps=3) as shown:
            for step in range(1, 4):
                shown.step(step, {"loss": jnp.float32(0.5)})
        written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
        assert len(written) == len(lines)
        assert all(w.startswith(line) for w, line in zip(written, lines, strict=True))


def test_records_of_every_third_the_last_and_the_evaluated():
    tracker = Records()
    with progress(tracker) as shown:
        for step in range(1, 8):
            shown.step(step, {"loss": jnp.float32(step / 2)}, epoch=step / 10)
            assert len(tracker.records) == [0, 0, 0, 1, 1, 2, 3][step - 1]  # one step late
            if step == 5:
                shown.evaluated({"score": 0.25})
    assert tracker.is_closed
    assert tracker.of("step", "loss", "epoch", "score") == [
        (3, 1.5, 0.3, None),
        (5, 2.5, 0.5, 0.25),
        (6, 3.0, 0.6, None),
        (7, 3.5, 0.7, None),
    ]
    assert "frames_per_second" in tracker.records[0]
    assert "tokens_per_second" not in tracker.records[0]


def test_counts_do_not_end_at_two_to_the_31():
    """Of a run that goes on after step 2^31 - 3: Python's numbers, in records and on the bar."""
    tracker, start = Records(), 2**31 - 3
    with progress(
        tracker,
        steps=start + 3,
        log_every=1,
        step=start,
        skipped=7,
        derived=lambda record: {"tokens": record["step"] * 2**20},
    ) as shown:
        for step in range(start + 1, start + 4):
            shown.step(step, {"loss": jnp.float32(1), "skipped": jnp.int32(7)})
    assert tracker.of("step", "tokens", "skipped") == [
        (step, step * 2**20, 7) for step in range(2**31 - 2, 2**31 + 1)
    ]


def test_another_headline_and_what_is_derived(capsys):
    tracker = Records()
    with progress(
        tracker,
        headline="reward",
        log_every=1,
        steps=2,
        derived=lambda record: {"doubled": 2 * record["reward"]},
    ) as shown:
        for step in (1, 2):
            shown.step(step, {"reward": jnp.float32(step), "deaths": jnp.int32(3)})
    assert tracker.of("reward", "doubled", "deaths") == [(1, 2, 3), (2, 4, 3)]
    assert isinstance(tracker.records[0]["deaths"], int)
    assert "mean reward 1.050" in capsys.readouterr().out


def test_steps_that_are_not_finite_are_reported_and_end_the_run(capsys):
    tracker = Records()

    def train() -> None:
        with progress(tracker, skip_limit=2) as shown:
            for step, count in enumerate([1, 1, 2, 3], 1):
                shown.step(step, {"loss": jnp.float32("nan"), "skipped": jnp.int32(count)})

    with pytest.raises(Diverged, match=r"step 4: .* in 2 steps .*`griffin train --skip-limit`"):
        train()
    assert tracker.is_closed
    lines = [line for line in capsys.readouterr().out.splitlines() if "step skipped" in line]
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 3", "step 4"]


def test_processes_but_the_first_show_nothing(capsys):
    with progress(Records(), shown=False) as shown:
        shown.say("a line")
        shown.step(1, {"loss": jnp.float32(1)})
    assert capsys.readouterr().out == ""
