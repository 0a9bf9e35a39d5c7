# SPDX-License-Identifier: Apache-2.0
"""A saved session goes on in another process, and no other model takes it for its own."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import recurrentgemma as rg
from checkpoints import session_file, store
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.text.tokenizer import ByteTokenizer, save_tokenizer
from tests.drawn import untrained
from tests.recurrentgemma.models import GRIFFIN
from tests.recurrentgemma.text.seams import KINDS

ROOT = Path(__file__).parents[2]
CONFIG = dataclasses.replace(
    GRIFFIN, vocab_size=400, pattern=("recurrent", "local_attention"), num_layers=2
)
TEXT = "Né à Genève, 1712 🎉; to be, or not to be. " * 30
ELSEWHERE = """
import json, sys
import recurrentgemma as rg
from tests.compiling import QUICKLY, compiling
with compiling(**{QUICKLY: True}):  # the same programs, of which bits are compared
    lm = rg.load(sys.argv[1])
    for path in sys.argv[2:]:
        session = lm.session(path)
        seen = session.tokens_seen
        completion = session.complete("end?", max_tokens=12, logprobs=0)
        session.save(path)
        print(json.dumps([seen, completion.tokens, completion.logprobs]))
"""


@pytest.fixture(scope="module")
def lm() -> rg.LanguageModel:
    return rg.LanguageModel(untrained(CONFIG), ByteTokenizer())


@pytest.fixture
def path(tmp_path, lm):
    session = lm.session()
    session.read(TEXT)
    session.fork()
    session.save(tmp_path / "a.session")
    return tmp_path / "a.session"


def test_in_another_process(lm, tmp_path):
    """Read in a hundred pieces, forked, saved, loaded elsewhere: one call. Without the fork, which
    reads what has come, even bit for bit."""
    store.write(tmp_path / "model", flat_params(lm.model), lm.config)
    save_tokenizer(lm.tokenizer, tmp_path / "model")
    session, text = lm.session(), TEXT + " The "
    for part in np.array_split(np.array(list(text)), 100):
        session.read("".join(part))
    session.save(tmp_path / "plain")
    session.fork().save(tmp_path / "forked")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *(tmp_path / n for n in ("model", "plain", "forked"))],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (expected,) = lm.complete([text + "end?"], max_tokens=12, logprobs=0)
    ids = [*lm.tokenizer.encode(text + "end?"), *expected.tokens]
    for name, line in zip(("plain", "forked"), done.stdout.splitlines()[-2:], strict=True):
        seen, tokens, logprobs = json.loads(line)
        assert (seen, tokens) == (len(ids) - 16, expected.tokens)
        atol = 0 if name == "plain" else 2e-5
        np.testing.assert_allclose(logprobs, expected.logprobs, atol=atol, rtol=0)
        again = lm.session(tmp_path / name)  # what the other process wrote
        assert again.tokens_seen == len(ids)
        np.testing.assert_allclose(again.score("!"), lm.score([*ids, 33])[-1:], atol=2e-5)


def test_saved_and_restored_at_every_token(lm, tmp_path):
    """Whatever was read before the file was written and after: one call, bit for bit."""
    ids = lm.tokenizer.encode(TEXT)[:100]
    (expected,) = lm.complete([ids], max_tokens=3, logprobs=0)
    for split in range(1, len(ids)):
        session = lm.session()
        session.read(ids[:split])
        session.save(tmp_path / "a")
        restored = lm.session(tmp_path / "a")
        restored.read(ids[split:])
        completion = restored.complete(max_tokens=3, logprobs=0)
        assert (completion.tokens, completion.logprobs) == (expected.tokens, expected.logprobs)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_saving_is_not_seen(tmp_path, dtype):
    """At every kind of place: nothing read yet, text held back, a text that the model has ended."""
    config = dataclasses.replace(CONFIG, dtype=dtype, param_dtype=dtype)
    tokenizer = ByteTokenizer()
    model = untrained(config)
    lm = rg.LanguageModel(model, tokenizer)
    (first,) = lm.complete([TEXT], max_tokens=9, temperature=1.0, seed=1)
    tokenizer.stop_ids = (first.tokens[-1],)
    lm = rg.LanguageModel(model, tokenizer)
    session = lm.session()
    steps = [
        lambda s: None,
        lambda s: s.read("To"),
        lambda s: s.read([84]),
        lambda s: s.read(TEXT * 5),
        lambda s: s.generate(max_tokens=3),
        lambda s: s.generate(TEXT, temperature=1.0, seed=1),
        lambda s: s.chat("Hi", max_tokens=3),
    ]
    for step in steps:
        step(session)
        session.save(tmp_path / "s")
        loaded = lm.session(tmp_path / "s")
        assert loaded._point._replace(state=None) == session._point._replace(state=None)
        for one, other in zip(
            state_arrays(loaded), state_arrays(session), strict=True
        ):  # fmt: skip
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        ours, theirs = (
            one.fork().complete("!", max_tokens=5, logprobs=0) for one in (session, loaded)
        )
        assert ours == theirs
    assert not list(tmp_path.glob(".*"))


def state_arrays(session: rg.Session) -> list[np.ndarray]:
    state = session._point.state
    if state is None:
        return []
    return [np.asarray(state.position_B), *(np.asarray(x) for layer in state.layers for x in layer)]


def other_weights(lm):
    flat = dict(flat_params(lm.model))
    name = next(iter(flat))
    flat[name] = flat[name].at[(0,) * flat[name].ndim].add(1e-3)
    return rg.LanguageModel(from_flat_params(lm.config, flat), lm.tokenizer)


def fresh(tokenizer=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return rg.LanguageModel(untrained(config), tokenizer or ByteTokenizer())


def test_a_session_is_no_model(path):
    with pytest.raises(UserError, match=r"a saved session, not a model; load .* lm\.session\('"):
        rg.load(path)
    with pytest.raises(UserError, match="the path is empty; expected a run or checkpoint"):
        rg.load("")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (other_weights, "of the same shape with other weights"),
        (lambda lm: fresh(num_layers=3), r"another model, with num_layers 2 \(here 3\)"),
        (
            lambda lm: fresh(attention_window=9),
            r"another model, with attention_window 8 \(here 9\)",
        ),
        (
            lambda lm: fresh(dtype="bfloat16", param_dtype="bfloat16"),
            r"in float32 .*here|rg\.load\(\.\.\., dtype='float32'\)",
        ),
        (lambda lm: rg.LanguageModel(lm.model, KINDS["sentencepiece"]()), "another tokenizer"),
        (lambda lm: rg.LanguageModel(lm.model), "has no tokenizer"),
    ],
)
def test_another_model(lm, path, other, message):
    with pytest.raises(UserError, match=message) as caught:
        other(lm).session(path)
    assert str(path) in str(caught.value)


def test_how_a_model_is_run_does_not_matter(lm, path):
    config = dataclasses.replace(CONFIG, scan_layers=True, remat="block")
    scanned = rg.LanguageModel(from_flat_params(config, flat_params(lm.model)), ByteTokenizer())
    expected = lm.session(path).generate(max_tokens=9)
    assert scanned.session(path).generate(max_tokens=9) == expected


def test_token_ids_need_no_tokenizer(lm, tmp_path):
    bare = rg.LanguageModel(lm.model)
    session = bare.session()
    session.read(list(range(40)))
    session.save(tmp_path / "ids")
    for either in (bare, lm):
        assert either.session(tmp_path / "ids").tokens_seen == 40


def test_every_damage_is_seen(lm, path):
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    places = [*range(0, 400, 7), *generator.integers(0, len(content), 150)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|not a saved session|newer one"):
            lm.session(path)
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            lm.session(path)


def test_a_newer_version(lm, path):
    tensors = load_file(path)
    save_file(tensors, path, {"format": session_file.FORMAT, "version": "2"})
    with pytest.raises(UserError, match=r"format 2, and this griffin-lm reads format 1.*update"):
        lm.session(path)


def test_what_is_no_session(lm, tmp_path):
    with pytest.raises(UserError, match="there is no saved session"):
        lm.session(tmp_path / "nothing")
    with pytest.raises(UserError, match="there is no saved session"):
        lm.session(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({"x": np.zeros(3)}, weights)
    with pytest.raises(UserError, match="not a saved session"):
        lm.session(weights)
    session = lm.session()
    session.read("To be")
    for there in (weights, tmp_path):  # and nothing is overwritten
        with pytest.raises(UserError, match="is not a saved session: save to another path"):
            session.save(there)
    assert load_file(weights).keys() == {"x"}
    with pytest.raises(UserError, match="there is no directory"):
        session.save(tmp_path / "no" / "s")


def test_an_interrupted_save_leaves_the_old_file(lm, path, monkeypatch):
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    session = lm.session(path)
    session.read("more")
    monkeypatch.setattr("checkpoints.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        session.save(path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_old_file_of_the_format_is_read(lm, path):
    """The names that later versions must go on reading."""
    tensors = load_file(path)
    assert set(tensors) == {
        "position", "wrapped", "unread", "context", "layers.0.h", "layers.0.conv",
        "layers.1.keys", "layers.1.values",
    }  # fmt: skip
    assert tensors["layers.0.h"].shape == (1, CONFIG.lru_width)
