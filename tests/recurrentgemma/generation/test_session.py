# SPDX-License-Identifier: Apache-2.0
"""Session: however it came to where it stands, it goes on as one call of `lm` would."""

import dataclasses
import inspect
import itertools

import jax
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation import walk
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.session import Session
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.text import pieces
from recurrentgemma.text.chat import chat_format, encode_chat
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.recurrentgemma.models import make
from tests.recurrentgemma.text.seams import KINDS

pytestmark = pytest.mark.usefixtures("small_chunks")

TEXT = "Né à Genève, 1712 🎉; to be, or not to be: that is the question. " * 4
LOGP = 2e-5  # the state contract's tolerance: other chunks are other shapes
EMBEDDING = "embedder/input_embedding"


@pytest.fixture(scope="module")
def small_chunks():
    """A text of a few hundred tokens takes many chunks, and many windows of 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "CHUNKS", (4, 16, 64))
        patch.setattr(pieces, "HELD", 40)
        yield


def language_model(kind: str, tokenizer, vocab_size: int = 300) -> LanguageModel:
    """A model whose every part matters."""
    model = make(kind)
    config = dataclasses.replace(model.config, vocab_size=vocab_size, context_length=512)
    table_VD = 0.3 * jax.random.normal(jax.random.key(3), (vocab_size, config.width))
    model = from_flat_params(config, {**flat_params(model), EMBEDDING: table_VD})
    return LanguageModel(model, tokenizer)


@pytest.fixture(scope="module")
def lm(small_chunks) -> LanguageModel:
    return language_model("short", ByteTokenizer())


@pytest.fixture(scope="module")
def mqa(small_chunks) -> LanguageModel:
    return language_model("mqa", ByteTokenizer())


def in_pieces(lm: LanguageModel, text: str, size: int = 3) -> Session:
    session = lm.session()
    for start in range(0, len(text), size):
        session.read(text[start : start + size])
    return session


def same(one, other) -> None:
    """Equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-4), one, other)


@pytest.mark.parametrize("kind", ["short", "hawk", "mqa"])
def test_a_text_in_pieces_is_one_call(kind, small_chunks):
    """Bit for bit: it is read in the same chunks."""
    lm = language_model(kind, ByteTokenizer())
    (expected,) = lm.complete([TEXT], max_tokens=20, logprobs=2)
    session = in_pieces(lm, TEXT)
    assert session.tokens_seen == len(ByteTokenizer().encode(TEXT))
    same(dataclasses.asdict(session.complete(max_tokens=20, logprobs=2)), vars(expected))
    assert session.tokens_seen == len(ByteTokenizer().encode(TEXT)) + 20
    ids = ByteTokenizer().encode(TEXT)
    session = lm.session()
    for start in range(0, len(ids), 7):
        session.read(ids[start : start + 7])
    same(dataclasses.asdict(session.complete(max_tokens=20, logprobs=2)), vars(expected))


@pytest.mark.parametrize("kind", ["sentencepiece", "byte level", "llama"])
def test_other_tokenizers(kind, small_chunks):
    tokenizer = KINDS[kind]()
    lm = language_model("hawk", tokenizer, tokenizer.vocab_size)
    sampled = {"max_tokens": 12, "temperature": 1.0, "seed": 5, "logprobs": 0}
    (expected,) = lm.complete([TEXT], **sampled)
    completion = in_pieces(lm, TEXT).complete(**sampled)
    same(vars(completion), vars(expected))


def test_what_was_generated_is_what_follows(lm):
    """A session is what was read and what was answered, as ids in one call."""
    session = lm.session()
    ids = lm.tokenizer.encode(TEXT)
    first = session.complete(TEXT, max_tokens=9, temperature=1.0, seed=1)
    second = session.complete(" And", max_tokens=9)
    third = session.complete([1, 2], max_tokens=9, logprobs=0)
    ids += [*first.tokens, *b" And", *second.tokens, 1, 2]
    (expected,) = lm.complete([ids], max_tokens=9, logprobs=0)
    assert third.tokens == expected.tokens
    np.testing.assert_allclose(third.logprobs, expected.logprobs, atol=LOGP)
    assert session.tokens_seen == len(ids) + 9
    close(session.state, state_of(lm, [*ids, *third.tokens]))


def state_of(lm: LanguageModel, ids: list[int]):
    session = lm.session()
    session.read(ids)
    return session.state


def test_its_state_is_the_model_s_own(lm):
    from flax import nnx

    ids = lm.tokenizer.encode(TEXT)
    graphdef, params = nnx.split(lm.model)
    call = jax.jit(lambda params, ids: nnx.merge(graphdef, params)(ids)[1])
    state = in_pieces(lm, TEXT).state
    close(state, call(params, np.array([ids])))
    assert state.position_B.tolist() == [len(ids)]
    jax.tree.map(lambda x: x.delete(), state)  # a copy: the caller may do what he likes with it
    empty = lm.session()
    assert empty.state.position_B.tolist() == [0]
    assert (empty.tokens_seen, empty.messages) == (0, [])


def test_looking_and_forking_change_nothing(lm):
    session = lm.session()
    (expected,) = lm.complete([TEXT], max_tokens=20, logprobs=0)
    for start in range(0, len(TEXT), 11):
        session.read(TEXT[start : start + 11])
        session.score("and")
        assert session.state.position_B.tolist() == [session.tokens_seen]
        session = session.fork()
    completion = session.complete(max_tokens=20, logprobs=0)
    assert completion.tokens == expected.tokens
    np.testing.assert_allclose(completion.logprobs, expected.logprobs, atol=LOGP)


def test_forks_share_the_past_and_no_future(lm):
    session = in_pieces(lm, TEXT)
    one, other = session.fork(), session.fork()
    assert one._point.state is session._point.state is other._point.state is not None
    texts = [fork.generate(f" {n}", max_tokens=9) for n, fork in enumerate((one, other, session))]
    assert texts == [lm.generate(f"{TEXT} {n}", max_tokens=9) for n in range(3)]


def test_scores(lm):
    ids = lm.tokenizer.encode(TEXT)
    session = in_pieces(lm, TEXT)
    expected = lm.score([*ids, *b" and"])
    for given in (" and", list(b" and")):
        scores = session.score(given)
        np.testing.assert_allclose(scores, expected[-4:], atol=LOGP)
    same(session.score(" and"), scores)
    assert session.tokens_seen == len(ids)
    assert session.score("").shape == session.score([]).shape == (0,)
    same(lm.session().score(TEXT), lm.score(TEXT))
    one = lm.session()
    one.read([7])  # nothing stands before it
    np.testing.assert_allclose(one.score([1, 2]), lm.score([7, 1, 2]), atol=LOGP)


def test_a_state_that_is_wrong_shows(lm):
    """The tests above can fail: one number of the recurrence, one key of the ring."""
    (expected,) = lm.complete([TEXT], max_tokens=4, logprobs=0)
    for layer, field in ((0, "h_BE"), (1, "keys_BWK")):
        session = in_pieces(lm, TEXT).fork()
        state = session._point.state
        assert state is not None
        layers = list(state.layers)
        array = getattr(layers[layer], field)
        index = (0, 0, slice(None)) if field == "keys_BWK" else (0, 0)
        layers[layer] = layers[layer]._replace(**{field: array.at[index].add(1.0)})
        session._point = session._point._replace(state=state._replace(layers=tuple(layers)))
        session._ready = None
        logprobs = session.complete(max_tokens=4, logprobs=0).logprobs
        assert np.abs(np.array(logprobs) - expected.logprobs).max() > 10 * LOGP


def answers(lm: LanguageModel, count: int = 24) -> str:
    return lm.session().generate("To be", max_tokens=count, temperature=1.0, seed=3)


def test_a_stop_string_cuts_the_state_too(lm):
    """In the middle of what the model had generated, and of a character of several tokens."""
    options = {"max_tokens": 24, "temperature": 1.0, "seed": 3}
    whole = answers(lm)
    for end in (1, 5, 9):
        stop = whole[end : end + 2]
        end = whole.index(stop)
        session = lm.session()
        assert session.generate("To be", stop=stop, **options) == whole[:end]
        (generated,) = lm.complete(["To be"], **options)
        kept = lm.tokenizer.encode("To be") + kept_tokens(lm, generated.tokens, whole[:end])
        close(session.state, state_of(lm, kept))
        assert session.tokens_seen == len(kept)


def kept_tokens(lm: LanguageModel, tokens: list[int], text: str) -> list[int]:
    return next(
        tokens[:n] for n in range(len(tokens) + 1) if ByteTokenizer().decode(tokens[:n]) == text
    )


def test_a_stop_string_inside_of_a_token():
    """What the token has before it is text, and read as such."""
    tokenizer = KINDS["sentencepiece"]()
    lm = language_model("hawk", tokenizer, tokenizer.vocab_size)
    long = [i for i in range(tokenizer.vocab_size) if len(tokenizer.decode([i])) > 3]
    for seed in range(40):
        (generated,) = lm.complete(["To be"], max_tokens=20, temperature=1.0, seed=seed)
        inside = [n for n, token in enumerate(generated.tokens) if token in long and n]
        if inside:
            break
    number = inside[-1]
    word = tokenizer.decode([generated.tokens[number]])
    before = tokenizer.decode(generated.tokens[:number])
    stop = generated.text[len(before) + 2 :][:8]
    assert generated.text.index(stop) == len(before) + 2, "the example is not what it should be"
    session = lm.session()
    text = session.generate("To be", max_tokens=20, temperature=1.0, seed=seed, stop=stop)
    assert text == before + generated.text[len(before) :][:2]
    head = tokenizer.encode(word[:2], bos=False)
    kept = [*tokenizer.encode("To be"), *generated.tokens[:number]]
    assert session.tokens_seen == len(kept) + len(head)
    close(session.state, state_of(lm, kept + head))


@pytest.fixture(scope="module")
def stopping(lm) -> LanguageModel:
    """Ends its text with the fifth token of what it says to "To be"."""
    tokenizer = ByteTokenizer()
    (completion,) = lm.complete(["To be"], max_tokens=9, temperature=1.0, seed=3)
    end = next(t for n, t in enumerate(completion.tokens) if n >= 4)
    assert end not in completion.tokens[:4]
    tokenizer.stop_ids = (end,)
    return LanguageModel(lm.model, tokenizer)


def test_the_token_that_ends_a_text_is_not_read(stopping):
    options = {"temperature": 1.0, "seed": 3}
    (expected,) = stopping.complete(["To be"], **options)
    assert (len(expected.tokens), expected.finish_reason) == (4, "stop")
    session = stopping.session()
    assert session.complete("To be", **options).tokens == expected.tokens
    ids = [*stopping.tokenizer.encode("To be"), *expected.tokens]
    assert session.tokens_seen == len(ids)
    close(session.state, state_of(stopping, ids))
    # Asked again with nothing in between, it answers as lm does after the same ids.
    (again,) = stopping.complete([ids], max_tokens=6, logprobs=0)
    for forked in (session.fork(), session):
        completion = forked.complete(max_tokens=6, logprobs=0)
        assert completion.tokens == again.tokens
        np.testing.assert_allclose(completion.logprobs, again.logprobs, atol=LOGP)
    session = stopping.session()
    session.generate("To be", **options)
    np.testing.assert_allclose(session.score(" b"), stopping.score([*ids, *b" b"])[-2:], atol=LOGP)
    session.read(" b")
    close(session.state, state_of(stopping, [*ids, *b" b"]))


def test_a_stream_moves_the_session_with_each_piece(lm):
    options = {"max_tokens": 24, "temperature": 1.0, "seed": 3}
    whole = answers(lm)
    (generated,) = lm.complete(["To be"], **options)
    for count in (0, 1, 3, 100):
        session = lm.session()
        stream = session.stream("To be", **options)
        text = "".join(itertools.islice(stream, count))
        assert whole.startswith(text)
        kept = kept_tokens(lm, generated.tokens, text) if count < 100 else generated.tokens
        read = lm.tokenizer.encode("To be") if count else []
        assert session.tokens_seen == len(read) + len(kept)
        close(session.state, state_of(lm, read + kept) if read else lm.session().state)
    assert text == whole


def test_a_stream_does_not_go_on_behind_something_else(lm):
    session = lm.session()
    stream = session.stream("To be", max_tokens=99, temperature=1.0, seed=3)
    next(stream)
    for look in (session.fork, lambda: session.score("x"), lambda: session.state):
        look()
        next(stream)
    session.read("!")
    seen = session.tokens_seen
    with pytest.raises(UserError, match=r"session\.fork\(\)\.stream"):
        next(stream)
    assert session.tokens_seen == seen
    late = session.stream(" b", max_tokens=3)
    session.read("!")
    with pytest.raises(UserError, match="has gone on otherwise"):
        next(late)


@pytest.mark.parametrize(
    ("call", "where", "times"),
    [
        (lambda s: s.read(TEXT * 2), "read", 1),
        (lambda s: s.generate(TEXT, max_tokens=9), "read", 1),
        (lambda s: s.generate(TEXT, max_tokens=9), "read", 2),
        (lambda s: s.generate("a", max_tokens=9), "advance", 1),
        (lambda s: s.generate("a", max_tokens=99, stop="unheard of"), "advance", 2),
        (lambda s: s.chat("a", max_tokens=99, stop="unheard of"), "advance", 2),
        (lambda s: s.score("a"), "read", 1),
    ],
)
def test_interrupted_it_stays_where_it_was(lm, monkeypatch, call, where, times):
    """Ctrl-C, or an error of the device, at a chunk of what is read or a block of an answer."""
    session = in_pieces(lm, TEXT)
    seen, twin = session.tokens_seen, session.fork()
    session = in_pieces(lm, TEXT) if where == "read" else session
    real, left = getattr(lm._generator, where), itertools.count(times, -1)

    def interrupted(*args, **options):
        if next(left) <= 1:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lm._generator, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(session)
    assert (session.tokens_seen, session.messages) == (seen, [])
    assert session.generate("; and", max_tokens=9) == twin.generate("; and", max_tokens=9)


def test_nothing_is_compiled_that_lm_has_compiled(lm):
    programs = [lm._generator._prefill.jitted, lm._generator._decode, lm._score.jitted]
    lm.generate(TEXT, max_tokens=20)
    lm.score(TEXT)
    before = [program._cache_size() for program in programs]
    session = in_pieces(lm, TEXT)
    session.generate(max_tokens=20, stop="unheard of", temperature=1.0)
    list(session.stream(TEXT, max_tokens=20))
    assert [program._cache_size() for program in programs][:2] == before[:2]
    assert lm._generator._copy._cache_size() == 1


def test_a_chat_reads_each_turn_once(lm, monkeypatch):
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 2}
    session, ids = lm.session(), []
    messages = []
    read = lm._generator.read
    lengths: list[int] = []
    monkeypatch.setattr(lm._generator, "read", lambda t, s: lengths.append(len(t)) or read(t, s))
    for message in ("Name three rivers.", "And <end_of_turn> 🎉?", "Why?"):
        answer = session.chat(message, **options)
        messages += [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        assert session.messages == messages
    assert sum(lengths) < len(encode_chat(lm.tokenizer, messages))
    ids = encode_chat(lm.tokenizer, messages)
    if "\ufffd" not in "".join(m["content"] for m in messages):
        last = len(encode_chat(lm.tokenizer, messages[:-1])) + len(messages[-1]["content"].encode())
        close(session.state, state_of(lm, ids[:last]))
    other = lm.session()
    other.read("A preface.")
    other.chat("Hi", **options)
    assert other.tokens_seen > len("A preface.")
    with pytest.raises(UserError, match="expected a string"):
        session.chat(messages)  # type: ignore[arg-type]


def test_a_streamed_chat_is_the_chat(lm):
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 2}
    session, other = lm.session(), lm.session()
    for message in ("Hi", "Why?"):
        assert "".join(session.stream_chat(message, **options)) == other.chat(message, **options)
        assert session.messages == other.messages
        assert session.tokens_seen == other.tokens_seen
    with pytest.raises(UserError, match="expected a string"):
        session.stream_chat(["Hi"])  # type: ignore[arg-type]


def test_a_chat_by_a_template_that_reads_the_clock(lm, monkeypatch):
    template = "<start_of_turn>system\n{{ strftime_now('%d %b %Y') }}<end_of_turn>\n"
    template += "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
    template += "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    chats = chat_format(lm.tokenizer, template)
    monkeypatch.setattr("recurrentgemma.generation.session.chat_format", lambda tokenizer: chats)
    session = lm.session()
    for message in ("Hi", "And?"):
        session.chat(message, max_tokens=3)
    assert len(session.messages) == 4


def test_a_session_s_chat_is_lm_s(lm):
    """Where the model's own tokens are those of its text."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Seine"}]
    session = lm.session()
    session.read([*encode_chat(lm.tokenizer, messages[:1]), *b"Seine"])
    answer = tuple((message["role"], message["content"]) for message in messages)
    session._point = session._point._replace(messages=answer)
    (expected,) = lm.complete(
        [encode_chat(lm.tokenizer, [*messages, {"role": "user", "content": "Why?"}])], max_tokens=9
    )
    assert session.chat("Why?", max_tokens=9) == expected.text
    assert session.tokens_seen == 9 + len(
        encode_chat(lm.tokenizer, [*messages, {"role": "user", "content": "Why?"}])
    )


def test_global_attention_has_an_end(mqa):
    session = mqa.session()
    session.read([1] * 500)
    seen = session.tokens_seen
    for call in (
        lambda: session.read([1] * 13),
        lambda: session.read(" text" * 10),
        lambda: session.generate(max_tokens=14),
        lambda: session.generate("text" * 2, max_tokens=6),
        lambda: session.stream(max_tokens=14),
        lambda: session.score([1] * 14),
    ):
        with pytest.raises(UserError, match=r"5\d\d tokens of context.*context_length=512"):
            call()
    assert session.tokens_seen == seen
    assert len(session.complete(max_tokens=13).tokens) == 13
    assert session.tokens_seen == 513
    with pytest.raises(UserError, match="tokens of context"):
        session.generate(max_tokens=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.read("a\ud800"), "this is no text"),
        (lambda s: s.read([300]), "outside the vocabulary of 300"),
        (lambda s: s.read([-1]), "token -1 is outside"),
        (lambda s: s.read([1.5]), "expected text or a list of token ids"),
        (lambda s: s.read(5), "expected text or a list of token ids"),
        (lambda s: s.read(["a", "b"]), "expected text or a list of token ids"),
        (lambda s: s.score([300]), "outside the vocabulary"),
        (lambda s: s.score("\ud800"), "this is no text"),
        (lambda s: s.generate("a", max_tokens=0), "max_tokens is 0"),
        (lambda s: s.stream("a", top_p=2), "top_p is 2"),
        (lambda s: s.generate("a", seed=[1, 2]), "2 values for 1 prompt"),
        (lambda s: s.complete("a", logprobs=-1), "logprobs is -1"),
    ],
)
def test_bad_calls_move_nothing(lm, call, message):
    session = lm.session()
    session.read("To be")
    point = session._point
    with pytest.raises(UserError, match=message):
        call(session)
    assert session._point is point
    with pytest.raises(TypeError, match="max_token"):
        session.generate("a", max_token=3)


def test_empty_and_without_a_tokenizer(lm):
    session = lm.session()
    session.read("")
    session.read([])
    for call in (session.generate, session.complete, session.stream):
        with pytest.raises(UserError, match=r"session is empty.*bos_id"):
            call()
    bare = LanguageModel(lm.model).session()
    for call in (
        lambda: bare.read("text"),
        lambda: bare.generate([1]),
        lambda: bare.stream([1]),
        lambda: bare.chat("Hi"),
        lambda: bare.complete([1], stop="x"),
    ):
        with pytest.raises(UserError, match="without a tokenizer"):
            call()
    assert len(bare.complete([1, 2], max_tokens=3).tokens) == 3
    assert bare.tokens_seen == 5
    assert bare.score([1]).shape == (1,)


def test_text_that_is_no_tokens_in_a_long_run(lm):
    """The count is Python's own, and does not end at 2^31."""
    session = in_pieces(lm, TEXT)
    session._point = session._point._replace(count=2**40)
    assert session.tokens_seen > 2**40
    assert f"{session.tokens_seen:,} tokens seen" in repr(session)


def test_its_signatures_show_the_options():
    for name in ("generate", "complete", "stream", "chat", "stream_chat"):
        assert {"max_tokens", "temperature", "stop", "seed"} <= set(
            inspect.signature(getattr(Session, name)).parameters
        )
    assert str(inspect.signature(LanguageModel.session)).startswith("(self, path")
