# SPDX-License-Identifier: Apache-2.0
"""LanguageModel: logits and scores, what it refuses, chat, loading."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.text.chat import encode_chat
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.drawn import untrained
from tests.recurrentgemma.generation.small_models import CONFIG
from tests.recurrentgemma.models import CONFIGS
from tests.recurrentgemma.test_golden import CONFIG as GOLDEN_CONFIG
from tests.recurrentgemma.test_golden import GOLDEN, split_mlp

TEXT = "Né à Genève, 1712 🎉"


@pytest.fixture(scope="module")
def bare(lm) -> LanguageModel:
    """The same model without a tokenizer."""
    return LanguageModel(lm.model)


@pytest.fixture(scope="module")
def golden() -> LanguageModel:
    flat = split_mlp(dict(np.load(GOLDEN / "params.npz")))
    return LanguageModel(from_flat_params(GOLDEN_CONFIG, jax.tree.map(jax.numpy.asarray, flat)))


@pytest.mark.parametrize(
    ("positions", "truth"),
    [("pos", "full"), ("seg", "packed"), ("pad_pos", "padded"), (None, "full")],
)
def test_logits_against_the_golden_values(golden, positions, truth):
    inputs = np.load(GOLDEN / "inputs.npz")
    positions_BT = None if positions is None else inputs[positions]
    logits_BTV = golden.logits(inputs["tokens"], positions_BT)
    assert logits_BTV.dtype == np.float32
    real_BT = np.ones(inputs["tokens"].shape, bool) if positions_BT is None else positions_BT >= 0
    error_BTV = np.abs(logits_BTV - np.load(GOLDEN / "logits.npz")[truth])
    assert error_BTV[real_BT].max() < 2e-5


def test_a_score_is_the_log_softmax_of_the_logits(lm, small_chunks):
    ids = lm.tokenizer.encode(TEXT * 3)
    logp_TV = np.asarray(jax.nn.log_softmax(lm.logits([ids])[0]))
    expected = logp_TV[np.arange(len(ids) - 1), ids[1:]]
    scores = lm.score(TEXT * 3)
    assert scores.dtype == np.float32
    assert scores.shape == (len(ids) - 1,)  # bos has no number, every token of the text has
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(lm.score(ids), expected, atol=1e-5)
    np.testing.assert_allclose(lm.score(ids[:30]), expected[:29], atol=1e-5)
    assert lm.score(ids[:1]).shape == (0,)


def test_scores_of_another_length_compile_nothing_again(bare, small_chunks):
    for length in (23, 3, 9, 40, 57):
        bare.score(list(range(length)))
        bare.logits([list(range(length))])
    assert bare._score.jitted._cache_size() == bare._logits.jitted._cache_size() == 2


def test_without_a_tokenizer(bare):
    ids = [1, 2, 3]
    assert bare.score(ids).shape == (2,)
    assert bare.logits([ids]).shape == (1, 3, 300)
    (completion,) = bare.complete([ids], max_tokens=3)
    assert (len(completion.tokens), completion.text) == (3, "")
    for call in (
        lambda: bare.generate("text"),
        lambda: bare.generate(ids),
        lambda: bare.stream(ids),
        lambda: bare.chat([{"role": "user", "content": "Hi"}]),
        lambda: bare.score("text"),
        lambda: bare.complete(["text"]),
        lambda: bare.complete([ids], stop="x"),
    ):
        with pytest.raises(ValueError, match=r"without a tokenizer.*tokenizer\.model"):
            call()


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "prompt is empty"),
        (["a", ""], {}, "prompt is empty"),
        ([[1], []], {}, "prompt is empty"),
        ([300], {}, "token 300 is outside the vocabulary of 300"),
        ([-1], {}, "token -1 is outside"),
        ([[1.5]], {}, "expected text or a list of token ids"),
        ([[[1], [2, 3]]], {}, "expected text or a list of token ids"),
        (5, {}, "a prompt is 5: expected text, token ids, or a list of such"),
        ("a\ud800", {}, r"this is no text: its character 1 is '\\ud800'"),
        ("a", {"max_tokens": 0}, "max_tokens is 0"),
        ("a", {"max_tokens": 1.5}, "max_tokens is 1.5"),
        (["a", "b"], {"max_tokens": [1, 2, 3]}, "3 values for 2 prompts"),
        ("a", {"temperature": -1}, "temperature is -1"),
        ("a", {"top_k": -1}, "top_k is -1"),
        ("a", {"top_p": 0}, "top_p is 0"),
        ("a", {"top_p": 1.5}, "top_p is 1.5"),
        ("a", {"min_p": 2}, "min_p is 2"),
        ("a", {"seed": "x"}, "seed is 'x'"),
        ("a", {"stop": [""]}, "stop is"),
    ],
)
def test_bad_calls(lm, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        lm.generate(prompt, **options)


def test_more_bad_calls(lm):
    with pytest.raises(ValueError, match=r"pass \[text\], or use generate"):
        lm.complete("ab")  # not "a" and "b"
    with pytest.raises(ValueError, match="one prompt"):
        lm.stream(["a", "b"])
    with pytest.raises(ValueError, match="top_p"):
        lm.stream("a", top_p=2)  # at once, not at the first piece
    with pytest.raises(TypeError, match="max_token"):
        lm.generate("a", max_token=3)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        lm.logits([[1, 300]])
    with pytest.raises(ValueError, match=r"shape \[B, T\]"):
        lm.logits([1, 2])
    with pytest.raises(ValueError, match=r"expected \[B, T\], and the rows differ in length"):
        lm.logits([[1, 2], [1]])
    with pytest.raises(ValueError, match="backwards"):
        lm.logits([[1, 2, 3]], positions=[[0, 1, 1]])
    with pytest.raises(ValueError, match="outside"):
        lm.score([1, 300])
    with pytest.raises(ValueError, match="empty"):
        lm.score("")
    with pytest.raises(ValueError, match="logprobs"):
        lm.complete(["a"], logprobs=-1)
    with pytest.raises(ValueError, match="261 ids"):
        LanguageModel(untrained(CONFIGS["griffin"]), ByteTokenizer())


def test_global_attention_ends_at_its_context_length():
    lm = LanguageModel(untrained(CONFIGS["mqa"]))
    ids = [1] * 60
    assert len(lm.complete([ids], max_tokens=69)[0].tokens) == 69  # the last is never read
    with pytest.raises(ValueError, match=r"129 tokens.*context_length=128"):
        lm.complete([ids], max_tokens=70)
    assert lm.score([1] * 129).shape == (128,)
    with pytest.raises(ValueError, match="context_length=128"):
        lm.score([1] * 130)


def test_prompts_of_every_kind(lm):
    ids = lm.tokenizer.encode("Ab")
    one = lm.generate("Ab", max_tokens=4)
    assert isinstance(one, str)
    for same in (ids, tuple(ids), np.array(ids)):
        assert lm.generate(same, max_tokens=4) == one
    for same in (["Ab"], [ids], np.array([ids]), ("Ab",)):
        assert lm.generate(same, max_tokens=4) == [one]


def test_options_as_one_value_are_the_keywords(lm):
    options = {"max_tokens": 9, "temperature": 1.0, "seed": 3, "stop": "a"}
    sampling = Sampling(**options)
    assert lm.generate("Ab", sampling=sampling) == lm.generate("Ab", **options)
    assert "".join(lm.stream("Ab", sampling=sampling)) == lm.generate("Ab", **options)
    both = [sampling, dataclasses.replace(sampling, seed=4)]
    assert lm.generate(["Ab"] * 2, sampling=both) == lm.generate(
        ["Ab"] * 2, **options | {"seed": [3, 4]}
    )
    with pytest.raises(UserError, match="pass sampling or temperature, top_k, not both"):
        lm.generate("Ab", sampling=sampling, temperature=1.0, top_k=3)


def test_chat_is_generation_from_the_format(lm):
    messages = [{"role": "user", "content": "Hi"}]
    prompt = encode_chat(lm.tokenizer, messages)
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 1}
    assert lm.chat(messages, **options) == lm.generate(prompt, **options)
    assert lm.chat("Hi", **options) == lm.generate(prompt, **options)
    with pytest.raises(UserError, match=r"message 0 is 'Hi': expected {'role': 'user'"):
        lm.chat(["Hi"])


def test_chat_by_another_template(lm, tmp_path, monkeypatch):
    text = "{{ bos_token }}{{ tools[0].a }}{{ messages[0].content }}{{ x }}"
    (tmp_path / "my.jinja").write_text(text)
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 1}
    written = {"tools": [{"a": "A"}], "variables": {"x": "="}}
    expected = lm.generate("A1 + 1=", **options)
    assert lm.chat("1 + 1", template=text, **written, **options) == expected
    assert lm.chat("1 + 1", template=tmp_path / "my.jinja", **written, **options) == expected
    ends = []
    decode_options = lm._decode_options
    monkeypatch.setattr(
        lm, "_decode_options", lambda *a, **k: ends.append(a[2]) or decode_options(*a, **k)
    )
    turns = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
    turns += "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    lm.chat("1", template=turns, **options)
    assert lm.tokenizer.control_tokens["<end_of_turn>"] in ends[0]  # what ends an answer there
    assert 77 in decode_options([Sampling()], None, {77}, prompts=[()]).stop_BS
    with pytest.raises(UserError, match="tools: Gemma's chat format has none"):
        lm.chat("1 + 1", tools=written["tools"])


@pytest.mark.parametrize("method", ["generate", "complete", "stream", "chat"])
def test_a_misspelt_option_names_the_method_and_the_nearest(lm, method):
    call = getattr(lm, method)
    message = (
        rf"LanguageModel.{method}\(\) has no option 'temprature' \(did you mean 'temperature'\?\)"
    )
    with pytest.raises(TypeError, match=message):
        call("a", temprature=0.5)
    with pytest.raises(TypeError, match=r"has no option 'quux': it takes .*max_tokens.*seed"):
        call("a", quux=1)


@pytest.mark.parametrize("method", ["generate", "complete", "stream", "chat"])
def test_the_signatures_show_every_option(method):
    parameters = inspect.signature(getattr(LanguageModel, method)).parameters
    for field in dataclasses.fields(Sampling):
        assert parameters[field.name].default == field.default
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


def test_a_language_model_shows_what_it_is(lm, bare):
    count = sum(x.size for x in jax.tree.leaves(nnx.state(lm.model)))
    assert repr(lm) == (
        f"LanguageModel(2 layers of recurrent, local_attention; {count:,} parameters in float32; "
        "ByteTokenizer of 261 ids)"
    )
    assert "no tokenizer" in repr(bare)


def test_with_other_parameters(lm):
    """Another language model, which compiles nothing; the first one stays what it is."""
    flat = flat_params(lm.model)
    moved = flat | {"final_norm/scale": flat["final_norm/scale"] + 1.0}
    before, other = lm.score(TEXT), lm.with_params(moved)
    expected = LanguageModel(from_flat_params(lm.config, moved), lm.tokenizer)
    np.testing.assert_allclose(other.score(TEXT), expected.score(TEXT), atol=1e-5)
    assert np.abs(other.score(TEXT) - before).max() > 0.01
    assert other.generate("Once", max_tokens=8) == expected.generate("Once", max_tokens=8)
    assert other.session().complete("Once", max_tokens=8) == expected.session().complete(
        "Once", max_tokens=8
    )
    assert other._score is lm._score
    np.testing.assert_array_equal(lm.score(TEXT), before)


def test_load(lm, run_dir):
    loaded = rg.load(run_dir)
    assert loaded.config == CONFIG  # unrolled
    assert isinstance(loaded.model, Griffin)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("a") == lm.tokenizer.encode("a")
    options = {"max_tokens": 20, "temperature": 1.0, "seed": 3}
    assert loaded.generate("Once", **options) == lm.generate("Once", **options)
    assert rg.load(run_dir, dtype="bfloat16").config.dtype == "bfloat16"
    with pytest.raises(ValueError, match="no such"):
        rg.load(run_dir / "missing")
