# SPDX-License-Identifier: Apache-2.0
"""Other people's conversations, a file of each form: chats/*.jsonl."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from recurrentgemma.text.chat_messages import checked_messages
from tests.recurrentgemma.text.chat_samples import TEMPLATES
from training.data.chat_documents import ChatDocuments
from training.data.data_cli import describe
from training.data.sources.chat_forms import checked, form_of, pair
from training.data.sources.chat_lines import ChatLines
from training.data.sources.spec import parse_spec

CHATS = Path(__file__).parent / "chats"
SYSTEM = {"role": "system", "content": "Be brief."}
FRANCE, ITALY, SPAIN = (
    pair("Capital of France?", "Paris"), pair("Of Italy?", "Rome"), pair("Of Spain?", "Madrid"),
)  # fmt: skip
NAMED = pair("Name the capital.\n\nFrance", "Paris")
ROME = pair("Capital of Italy?", "Rome")
FORMS = {
    "messages": ("messages", [[SYSTEM, *FRANCE], [*ITALY, *SPAIN]]),
    "parts": ("messages", [FRANCE]),
    "sharegpt": (
        "ShareGPT",
        [FRANCE, [SYSTEM, *ITALY, {"role": "user", "content": "Thanks"}], [SYSTEM, *SPAIN]],
    ),
    "conversations_with_roles": ("messages", [FRANCE]),
    "alpaca": ("Alpaca", [NAMED, [SYSTEM, *pair("Hello", "Hi"), *ROME]]),
    "dolly": ("Alpaca", [NAMED, ROME]),
    "prompt_response": ("prompt and response", [FRANCE, ITALY]),
    "prompt_completion": ("prompt and completion", [FRANCE, ITALY]),
    "question_answer": ("question and answer", [FRANCE]),
}


def lines(name: str, options: str = "") -> ChatLines:
    return ChatLines(parse_spec(f"chat:{CHATS / name}.jsonl{options}"))


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_each_form(name: str):
    """Read as messages, shown by `griffin data info`, and learned from."""
    form, talks = FORMS[name]
    source = lines(name)
    assert [checked_messages(source.messages(n)) for n in range(len(source))] == talks
    assert source.forms() == [source.form(len(source) - 1)] == [form]
    facts = describe(source.spec, "bytes")
    assert (facts["form"], facts["documents"]) == (form, len(talks))
    assert facts["chat_format"] == "gemma"
    answers = [m["content"] for talk in talks for m in talk if m["role"] == "assistant"]
    assert facts["learned_tokens"] == sum(len(answer) + 1 for answer in answers)


def test_tools_and_their_answers():
    talk = lines("tools").talk(0)
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert talk.tools is not None
    assert talk.tools[0]["function"]["name"] == "weather"
    assert describe(lines("tools").spec)["form"] == "messages"
    tokenizer = ByteTokenizer()
    text = TEMPLATES["tools"].replace("<|im_start|>", "<start_of_turn>")
    use_template(tokenizer, text.replace("<|im_end|>", "<end_of_turn>"))
    document = ChatDocuments(lines("tools"), tokenizer).read(0)
    assert document.learned is not None
    answers = tokenizer.decode(document.ids[document.learned].tolist())
    assert '{"name": "weather", "arguments": {"city": "Paris"}}' in answers
    assert answers.endswith("It is cloudy.<end_of_turn>")
    assert "cloudy\n" not in answers
    with pytest.raises(UserError, match="chat format"):
        ChatDocuments(lines("tools"), ByteTokenizer()).read(0)


def test_preferences_are_refused_and_one_side_can_be_learned():
    with pytest.raises(UserError, match=r"preferences\.jsonl:1 has .*\?messages=chosen"):
        lines("preferences").messages(0)
    assert lines("preferences", "?messages=chosen").messages(0) == FRANCE
    with pytest.raises(UserError, match="these are preferences"):
        form_of({"prompt": "a", "completion": "b", "label": True})


def test_one_file_holds_one_form():
    assert lines("mixed").messages(0) == FRANCE
    with pytest.raises(UserError, match=r"mixed\.jsonl:2: the form is 'ShareGPT', and .*'pr"):
        lines("mixed").messages(1)


def test_several_files_may_have_forms_of_their_own():
    source = ChatLines(parse_spec(f"chat:{CHATS}/[pq]*_[car]*e*.jsonl"))
    assert len(source.forms()) == 3
    assert describe(source.spec, "bytes")["form"] == ", ".join(source.forms())


@pytest.mark.parametrize("name", ["messages", "parts", "sharegpt", "alpaca", "tools"])
def test_the_same_in_parquet(tmp_path: Path, name: str):
    records = [json.loads(line) for line in (CHATS / f"{name}.jsonl").read_text().splitlines()]
    names = {name: None for record in records for name in record}
    records = [names | record for record in records]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=1)
    source, same = ChatLines(parse_spec(f"chat:{path}")), lines(name)
    for number in range(len(same)):
        assert checked_messages(source.messages(number)) == checked_messages(same.messages(number))
    assert source.form(0) == same.form(0)
    assert source.blocks is not None


A = {"role": "assistant", "content": "a"}
REFUSED = {
    "no answer": ({"messages": FRANCE[:1]}, r"no answer to learn from \(user\)"),
    "an unknown role": ({"messages": [{**A, "role": "critic"}, A]}, "has the role 'critic'"),
    "from nobody": ({"conversations": [{"from": "bot", "value": "a"}]}, "from 'bot': expected one"),
    "an empty turn": ({"messages": [{"role": "user", "content": " "}, A]}, "of 'user', is empty"),
    "an empty answer": ({"prompt": "a", "response": ""}, "an answer is empty"),
    "no messages": ({"messages": []}, r"no answer to learn from \(no messages\)"),
    "a text": ({"text": "once upon a time"}, "a text and no conversation; .*griffin train"),
    "a list": ([A], "expected a JSON object, found a list; of a file that is one array `jq -c"),
    "nothing known": ({"body": "a"}, "neither 'prompt' nor 'messages' .*has 'body'.*--prompt"),
    "half a pair": ({"prompt": "a"}, "no field 'response'; it has 'prompt'"),
    "no text": ({"instruction": "a", "output": 3}, "output is a int, expected a string"),
    "no input": ({"instruction": "a", "output": "b", "input": []}, "input is a list"),
    "no list": ({"conversations": "a"}, "must be a list of objects"),
    "from several": ({"conversations": [{"from": ["gpt"], "value": "a"}]}, r"from \['gpt'\]: exp"),
    "tools": ({"messages": [A], "tools": "{"}, "expected JSON"),
    "tools nested deeply": ({"messages": [A], "tools": "[" * 100_000}, "expected JSON"),
    "history": ({"prompt": "a", "response": "b", "history": [1]}, "list of .question, answer."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str):
    record, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        checked(form_of(record).read(record))
