"""What may come next, for every kind of tokenizer; and what cannot be kept to."""

import json
import random

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import ByteTokenizer
from serving.features.constraints import ConstraintFailed, Constraints


@pytest.fixture(scope="module")
def of_bytes() -> Constraints:
    return Constraints(ByteTokenizer())


def allowed(bits_M: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(bits_M.view(np.uint8), bitorder="little")).tolist())


def walk(constraint, choose) -> list[int]:
    """Tokens, each chosen from what is allowed, until the text ends."""
    tokens: list[int] = []
    while True:
        token = choose(sorted(allowed(constraint(tokens))))
        if token in (257, 260):
            return tokens
        tokens.append(token)
        assert len(tokens) < 200


CASES = {
    "regex": ("[0-9]{2,3}x", lambda text: text[-1] == "x" and text[:-1].isdigit()),
    "choice": (["yes", "no", 'a "b"'], lambda text: text in ("yes", "no", 'a "b"')),
    "grammar": ('start: "a" "b"+ "c"', lambda text: set(text[1:-1]) == {"b"}),
    "json": (
        {
            "type": "object",
            "properties": {"n": {"type": "integer", "maximum": 99}, "b": {"type": "boolean"}},
            "required": ["n", "b"],
            "additionalProperties": False,
        },
        lambda text: isinstance(json.loads(text)["n"], int),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_whatever_is_drawn_has_the_form(of_bytes, kind):
    given, good = CASES[kind]
    start = of_bytes.compiled(kind, given, field="form")
    random = np.random.default_rng(0)
    texts = {bytes(walk(start(), random.choice)).decode() for _ in range(5)}
    assert all(good(text) for text in texts), texts
    assert len(texts) > 1


def test_the_text_ends_where_it_may_and_must_where_it_is_over(of_bytes):
    constraint = of_bytes.compiled("regex", "[0-9]{1,2}", field="form")()
    digits, ends = set(b"0123456789"), {257, 260}
    assert allowed(constraint([])) == digits
    assert allowed(constraint([48])) == digits | ends
    assert allowed(constraint([48, 49])) == ends


def test_two_answers_do_not_share_where_they_stand(of_bytes):
    start = of_bytes.compiled("regex", "ab", field="form")
    first, second = start(), start()
    assert allowed(first([97])) == {98}
    assert allowed(second([])) == {97}


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}{1000}", "a{1000000}"])
def test_one_that_fails_on_the_way_says_so_and_nothing_of_its_text(of_bytes, pattern, caplog):
    constraint = of_bytes.compiled("regex", pattern, field="form")()
    with pytest.raises(ConstraintFailed, match=r"after . tokens: .*ask for a simpler") as caught:
        [constraint([97] * count) for count in range(3)]
    assert caught.value.field == "form"
    assert "\n" not in str(caught.value)
    assert "⟦" not in str(caught.value)
    assert not caplog.text


def test_a_large_schema(of_bytes):
    values = {f"k{i}": {"enum": [f"v{i}_{j}" for j in range(20)]} for i in range(800)}
    constraint = of_bytes.compiled("json", {"type": "object", "properties": values}, field="f")()
    for count in range(8):
        assert allowed(constraint(b'{"k799":'[:count]))


def test_a_schema_may_ask_for_no_space(of_bytes):
    schema = CASES["json"][0] | {"x-guidance": {"whitespace_flexible": False}}
    start = of_bytes.compiled("json", schema, field="f")
    for seed in range(20):
        text = bytes(walk(start(), random.Random(seed).choice)).decode()
        assert not set(text) & set(" \n\r\t"), text


def test_space_between_parts_of_json_has_an_end(of_bytes):
    constraint = of_bytes.compiled("json_object", None, field="form")()
    text = b"{" + b" " * 32
    assert ord(" ") in allowed(constraint(text[:-1]))
    assert allowed(constraint(text)) == {ord('"'), ord("}")}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("regex", "[", "the regular expression cannot be kept to: .*unclosed"),
        ("regex", 5, "the regular expression cannot be kept to"),
        ("json", {"type": "nonsense"}, "the JSON schema cannot be kept to: .*nonsense"),
        ("json", {"$ref": "http://elsewhere"}, "the JSON schema cannot be kept to"),
        ("json", {"$ref": "#"}, "the JSON schema cannot be kept to: no answer begins so"),
        ("grammar", "start: a", "the grammar cannot be kept to"),
    ],
)
def test_what_cannot_be_kept_to(of_bytes, kind, given, message):
    with pytest.raises(UserError, match=f"(?s){message}") as caught:
        of_bytes.compiled(kind, given, field="structured_outputs.x")
    assert caught.value.field == "structured_outputs.x"


def test_a_tokenizer_without_an_end():
    class Endless(ByteTokenizer):
        stop_ids = ()

    with pytest.raises(UserError, match="has no token that ends a text"):
        Constraints(Endless())
