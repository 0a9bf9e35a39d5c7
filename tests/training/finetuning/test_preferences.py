# SPDX-License-Identifier: Apache-2.0
"""Preferences as token ids: every form of a line, and what is refused by its place."""

import json
from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.finetuning.preference_config import PreferenceConfig
from training.finetuning.preferences import Preference, PreferenceReader

PAIR = {"prompt": "Capital of France?", "chosen": "Paris", "rejected": "Lyon"}
ASKED = [{"role": "user", "content": "Capital of France?"}]


def answered(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def write(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def read(path: str, *, most: int = 200, **fields) -> list[Preference]:
    config = PreferenceConfig(plain=fields.pop("plain", False), **fields)
    return PreferenceReader(config, ByteTokenizer(), most=most).read([path])


def text_of(preference: Preference, number: int) -> str:
    """What the answer's tokens spell."""
    answer = preference.answers[number]
    return ByteTokenizer().decode(answer.ids[answer.start :].tolist())


@pytest.mark.parametrize(
    "line",
    [
        PAIR,
        {"prompt": ASKED, "chosen": answered("Paris"), "rejected": answered("Lyon")},
        {"chosen": ASKED + answered("Paris"), "rejected": ASKED + answered("Lyon")},
        {**PAIR, "score": 3, "system": None},
    ],
)
def test_every_form_is_the_same_pair(line, tmp_path: Path):
    (pair,) = read(write(tmp_path, line))
    assert pair.name.endswith("pairs.jsonl:1")
    assert [answer.sign for answer in pair.answers] == [1, -1]
    assert text_of(pair, 0).startswith("Paris")
    assert text_of(pair, 1).startswith("Lyon")
    starts = [answer.ids[: answer.start] for answer in pair.answers]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert pair.length == len(pair.answers[0].ids) - 1


def test_without_a_template(tmp_path: Path):
    (pair,) = read(write(tmp_path, PAIR), plain=True)
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(pair.answers[0].ids.tolist()) == "Capital of France?Paris"
    assert pair.answers[0].ids[-1] == tokenizer.eos_id


def test_of_kto(tmp_path: Path):
    lines = [{"prompt": "a", "completion": "b", "label": False}, PAIR]
    wrong, chosen, rejected = read(write(tmp_path, *lines), method="kto")
    assert [one.answers[0].sign for one in (wrong, chosen, rejected)] == [-1, 1, -1]
    assert text_of(wrong, 0).startswith("b")
    assert len(chosen.answers) == len(rejected.answers) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "has no field 'rejected'; it has 'prompt', 'chosen'; exp"),
        ({"prompt": "a", "rejected": "b"}, "has no field 'chosen'"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "has no field 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "chosen is a text, and there is no prompt"),
        ({**PAIR, "rejected": " "}, "rejected is empty: mend or drop this line"),
        ({**PAIR, "rejected": "Paris"}, "chosen and rejected are the same: drop this line"),
        ({**PAIR, "chosen": 3}, "chosen=3: expected a text, or a list of messages"),
        ({**PAIR, "chosen": ["Paris"]}, "expected a message with 'role' and 'content'"),
        ({**PAIR, "chosen": ASKED}, "chosen does not end in an answer of the assistant"),
        ({**PAIR, "prompt": ASKED + answered("x")}, "chosen answers an answer"),
        (
            {"chosen": ASKED + answered("x"), "rejected": [*ASKED, *ASKED, *answered("y")]},
            "chosen and rejected answer different prompts",
        ),
        ({**PAIR, "chosen": "long" * 60}, "chosen has 2.. tokens with its prompt, and a row 200"),
        ([1], "expected a JSON object, found a list"),
    ],
)
def test_what_is_refused(line, message, tmp_path: Path):
    with pytest.raises(UserError, match=rf"pairs\.jsonl:2.*{message}"):
        read(write(tmp_path, PAIR, line))


def test_of_kto_what_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="label='yes': expected true or false"):
        read(write(tmp_path, {"prompt": "a", "completion": "b", "label": "yes"}), method="kto")
    with pytest.raises(UserError, match="has no field 'label'"):
        read(write(tmp_path, {"prompt": "a", "completion": "b"}), method="kto")
    with pytest.raises(UserError, match="has no field 'chosen'"):
        read(write(tmp_path, {"prompt": "a", "completion": "b", "label": True}))
