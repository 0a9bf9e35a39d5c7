# SPDX-License-Identifier: Apache-2.0
"""Questions with one right answer each, none of which is in two parts."""

import json

import pytest

from training.recipes.pfo.language_tasks import TASKS, rows, write


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_are_right(task: str):
    for row in rows(task, [50], seed=0)[0]:
        asked = row["prompt"].removesuffix("=")
        if task == "arithmetic":
            right = str(sum(map(int, asked.split("+"))))
        elif task == "format":
            right = json.dumps([int(digit) for digit in asked.split()[1:]])
        else:
            right = asked.removeprefix("copy ")
        assert row["answer"] == right


def test_parts_share_nothing(tmp_path):
    parts = rows("arithmetic", [30, 20, 10], seed=1)
    assert [len(part) for part in parts] == [30, 20, 10]
    assert len({row["prompt"] for part in parts for row in part}) == 60
    assert rows("arithmetic", [30, 20, 10], seed=1) == parts
    assert rows("arithmetic", [30, 20, 10], seed=2) != parts
    lines = write(tmp_path / "data/rows.jsonl", parts[2]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == parts[2]
