# SPDX-License-Identifier: Apache-2.0
"""Prompts of several forms as the ids that generation reads, and lines that are refused by name."""

import json
from collections import Counter
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import encode_chat
from tests.training.finetuning.small_policy import TOKENIZER, questions
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.questions import QuestionReader, chosen

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "12 + 7?"}


def read(path: Path, *rows: object, most: int = 99, **changes):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PolicyConfig(method="ppo", prompts=(str(path),), **changes)
    return QuestionReader(config, TOKENIZER, most=most).read(config.prompts)


def test_a_text_and_messages(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "12 + 7?", "answer": "19"},
        {"prompt": [SYSTEM, USER], "answer": "19", "level": 2},
        {"messages": [USER], "answer": "19"},
    ]
    first, second, third = read(path, *rows)
    assert list(first.ids) == encode_chat(TOKENIZER, [USER]) == list(third.ids)
    assert list(second.ids) == encode_chat(TOKENIZER, [SYSTEM, USER])
    assert (second.text, second.name, second.row["level"]) == ("12 + 7?", f"{path}:2", 2)
    (plain,) = read(path, {"q": "12+7=", "a": "19"}, plain=True, prompt_field="q", answer_field="a")
    assert list(plain.ids) == TOKENIZER.encode("12+7=")


def test_stops(tmp_path: Path):
    config = PolicyConfig(method="ppo", prompts=("p",))
    assert QuestionReader(config, TOKENIZER, most=9).stop_ids == (257, 260)


def test_errors(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"

    def error(message: str, *rows: object, **changes) -> None:
        with pytest.raises(UserError, match=message):
            read(path, *rows, **changes)

    good = {"prompt": "a", "answer": "b"}
    error(r"prompts\.jsonl:2: answer='': expected the exact answer", good, good | {"answer": ""})
    error(r"jsonl:1: answer=5: expected the exact answer, a text", good | {"answer": 5})
    error(r"jsonl:1: has no field 'answer'; it has 'prompt'; .*--response", {"prompt": "a"})
    error("has no field 'q'; it has 'prompt', 'answer'; name another with --prompt", good,
          prompt_field="q")  # fmt: skip
    error(r"jsonl:1: the prompt has 17 tokens, and .* at most 9 fit", good, most=9)
    error("the prompt is empty", good | {"prompt": " "})
    error("an answer already", good | {"prompt": [USER, {"role": "assistant", "content": "1"}]})
    error("expected a message with 'role' and 'content'", good | {"prompt": ["a"]})
    error("expected a text, or a list of messages", good | {"prompt": 3})
    error("expected a JSON object, found a list", [1])
    error("several messages", good | {"prompt": [SYSTEM, USER]}, plain=True)
    error("every line is empty")
    reader = QuestionReader(PolicyConfig(method="ppo", prompts=("p",)), TOKENIZER, most=9)
    with pytest.raises(UserError, match="no file matches"):
        reader.read([str(tmp_path / "absent")])
    assert read(path, {"prompt": "a"}, reward="a.py:f")  # a function needs no answer


def test_an_order_that_goes_through_all_again_and_again():
    asked = questions()
    whole = [question.name for question in chosen(asked, seed=1, start=0, count=18)]
    parts = [chosen(asked, seed=1, start=start, count=3) for start in range(0, 18, 3)]
    assert [question.name for part in parts for question in part] == whole
    assert set(Counter(whole).values()) == {3}
    assert whole[:6] != whole[6:12]
    assert whole != [question.name for question in chosen(asked, seed=2, start=0, count=18)]
