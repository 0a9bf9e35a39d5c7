"""Calls as templates have them written: held to, read in any pieces, told in OpenAI's form."""

import json

import llguidance
import openai
import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from serving.features.constraints import Constraints
from serving.http.server import create_app
from serving.http.tool_protocol import NamedTool, Tool
from serving.http.tools import CallForm, CallReader, call_grammar, form_of, tool_use

TAGGED = (
    "{% if tools %}{{ tools | tojson }} answer <tool_call>...</tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls }}\n{% endfor %}"
)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time", "parameters": PARAMETERS}}
TOOLS = [Tool.model_validate(tool) for tool in (WEATHER, TIME)]
TAGS, LINES = CallForm(True, "arguments"), CallForm(False, "parameters")
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TWO = ONE.replace("weather", "time").replace("Rome", "Oslo")
LINE = '{"name": "weather", "parameters": {"city": "Rome"}}'


def test_the_form_is_the_templates():
    for template, form in (
        (TAGGED, TAGS),
        ("{{ tools }}{{ messages[0].content }}", CallForm(False, "arguments")),
        ("""{{ tools }}{{ '{"name": "", ' + '"parameters": ' }}{{ messages[0].content }}""", LINES),
    ):
        tokenizer = ByteTokenizer()
        use_template(tokenizer, template)
        assert form_of(tokenizer) == form


@pytest.fixture(scope="module")
def accepts():
    """`accepts(grammar, text)`: as a whole answer."""
    constraints = Constraints(ByteTokenizer())

    def run(grammar: str, text: str) -> bool:
        compiled = llguidance.grammar_from("grammar", grammar)
        matcher = llguidance.LLMatcher(constraints._tokenizer, compiled, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return all(matcher.consume_token(b) for b in text.encode()) and matcher.is_accepting()

    return run


NAMED = NamedTool.model_validate({"type": "function", "function": {"name": "time"}})


@pytest.mark.parametrize(
    ("choice", "parallel", "form", "good", "bad"),
    [
        ("required", True, TAGS, [ONE, ONE + "\n" + TWO], ["hi", "hi" + ONE, ONE + "x"]),
        ("required", False, TAGS, [ONE], [ONE + "\n" + TWO]),
        (NAMED, True, TAGS, [TWO], [ONE, TWO + "\n" + TWO]),
        ("auto", True, TAGS, ["", "a <tool", ONE, "so:\n" + ONE + "\n" + TWO], ["<tool_call>x"]),
        ("auto", True, LINES, ["", "a {", LINE, LINE + "\n" + LINE], ["{}", LINE + "x"]),
        ("required", False, LINES, [LINE], ["", LINE.replace("Rome", "Bonn"), LINE + "\n" + LINE]),
    ],
)
def test_what_an_answer_is_held_to(accepts, choice, parallel, form, good, bad):
    use = tool_use(TOOLS, choice, parallel)
    assert use is not None
    grammar = call_grammar(use, form)
    assert [accepts(grammar, text) for text in good] == [True] * len(good)
    assert [accepts(grammar, text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("form", "text", "content", "names"),
    [
        (TAGS, ONE, "", ["weather"]),
        (TAGS, f"\n{ONE}\n{TWO}\n", "", ["weather", "time"]),
        (TAGS, f"Let me see.\n{ONE}", "Let me see.", ["weather"]),
        (TAGS, "a < b <tool_calm", "a < b <tool_calm", []),
        (TAGS, ONE.replace("weather", "other"), ONE.replace("weather", "other"), []),
        (TAGS, ONE[:-20], ONE[:-20], []),
        (TAGS, ONE.replace("Rome", "</tool_call>"), "", ["weather"]),
        (LINES, f"{LINE}\n{LINE}", "", ["weather", "weather"]),
        (LINES, f"I say {LINE}", f"I say {LINE}", []),
        (LINES, LINE[:-3], LINE[:-3], []),
        (LINES, f"{LINE} and", f"{LINE} and", []),
        (LINES, "", "", []),
    ],
)
def test_calls_are_taken_out_however_the_text_comes(form, text, content, names):
    use = tool_use(TOOLS, None, None)
    assert use is not None
    for size in (1, 2, 3, 7, len(text) + 1):
        reader, told, calls = CallReader(use, form), "", []
        pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
        for number, piece in enumerate(pieces, 1):
            more, whole = reader.push(piece, ended=number == len(pieces))
            told, calls = told + more, calls + whole
        assert (told, [call.function.name for call in calls]) == (content, names), size
        if calls and "</tool_call>" not in calls[0].function.arguments:
            assert json.loads(calls[0].function.arguments) == {"city": "Rome"}


@pytest.fixture
def client(griffin, monkeypatch, running_thread, running_server):
    tokenizer = ByteTokenizer()
    use_template(tokenizer, TAGGED)
    monkeypatch.setattr(griffin.lm, "tokenizer", tokenizer)
    with (
        running_thread(lambda: griffin, 8) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


ASK = {
    "model": "griffin",
    "messages": [{"role": "user", "content": "Weather?"}],
    "tools": [WEATHER],
}
ASK |= {"tools": [WEATHER, TIME], "max_tokens": 400, "temperature": 1.0, "seed": 5}


def test_the_openai_client_calls_tools(client):
    answer = client.chat.completions.create(
        **ASK, tool_choice="required", parallel_tool_calls=False, n=2
    )
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        assert call.function.name in ("weather", "time")
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    assert len({choice.message.tool_calls[0].id for choice in answer.choices}) == 2
    named = client.chat.completions.create(
        **ASK, tool_choice={"type": "function", "function": {"name": "time"}}
    )
    assert [call.function.name for call in named.choices[0].message.tool_calls] == ["time"]
    told = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    turns = [*ASK["messages"], answer.choices[0].message.model_dump(exclude_none=True), told]
    after = client.chat.completions.create(**ASK | {"messages": turns}, tool_choice="none")
    assert after.choices[0].message.tool_calls is None
    assert after.choices[0].message.content


def test_a_stream_of_calls_adds_up_to_the_whole(client):
    whole = client.chat.completions.create(**ASK, tool_choice="required").choices[0]
    chunks = [
        chunk.choices[0]
        for chunk in client.chat.completions.create(**ASK, tool_choice="required", stream=True)
    ]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls
    ]
    assert chunks[-1].finish_reason == whole.finish_reason == "tool_calls"
    assert not any(chunk.delta.content for chunk in chunks)


def test_a_schema_that_cannot_be_kept_to(client):
    odd = {"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "null"}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK | {"tools": [odd]}, tool_choice="required")
    assert caught.value.param == "tools"


def test_a_tokenizer_that_cannot_be_held_to_a_call(client, griffin, monkeypatch):
    monkeypatch.setattr(griffin, "constraints", None)
    client.chat.completions.create(**ASK | {"max_tokens": 2})
    with pytest.raises(openai.BadRequestError, match="cannot be held to a call") as caught:
        client.chat.completions.create(**ASK, tool_choice="required")
    assert caught.value.param == "tool_choice"
