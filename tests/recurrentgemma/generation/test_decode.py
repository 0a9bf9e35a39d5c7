# SPDX-License-Identifier: Apache-2.0
"""Generation: the same tokens whether alone, batched, chunked or streamed; few compilations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.generation.decode import CAPACITY, DecodeOptions, check_allowed
from recurrentgemma.generation.draw import sample, sampling_arrays
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.params import flat_params, from_flat_params
from tests.recurrentgemma.generation.small_models import KINDS, lm_of
from tests.recurrentgemma.models import call

pytestmark = pytest.mark.usefixtures("small_chunks")

SAMPLE = jax.jit(sample)
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "seed": 7}


@pytest.fixture(scope="module", params=list(KINDS))
def lm(request) -> LanguageModel:
    return lm_of(request.param)


@pytest.fixture(scope="module")
def griffin() -> LanguageModel:
    return lm_of("griffin")


def prompts(seed: int, *lengths: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 64, n).tolist() for n in lengths]


def tokens_of(lm: LanguageModel, prompt, **options) -> list:
    return [completion.tokens for completion in lm.complete(prompt, **options)]


def one_by_one(lm: LanguageModel, prompt: list[int], count: int, **options) -> list[int]:
    """What generation must give: the whole text through the model again for every token."""
    sampling = sampling_arrays([Sampling(**options)])
    ids = list(prompt)
    for step in range(count):
        padded = np.zeros((1, 64), np.int32)  # a causal model does not mind
        padded[0, : len(ids)] = ids
        logits_BTV, _ = call(lm.model, jnp.asarray(padded))
        logits_BV = np.asarray(logits_BTV)[:, len(ids) - 1]
        token_B = SAMPLE(logits_BV, sampling, np.array([step], np.int32))
        ids.append(int(token_B[0]))
    return ids[len(prompt) :]


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_tokens_are_those_of_the_model_run_anew_for_each(lm, length, options):
    """Prompts of one token, within a chunk, and over several chunks and windows."""
    (prompt,) = prompts(length, length)
    expected = one_by_one(lm, prompt, 12, **options)
    assert tokens_of(lm, [prompt], max_tokens=12, **options) == [expected]


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(lm, options):
    rows, most = prompts(0, 1, 37, 2, 17, 16), [12, 30, 1, 3, 25]
    alone = [
        tokens_of(lm, [row], max_tokens=n, **options)[0] for row, n in zip(rows, most, strict=True)
    ]
    assert tokens_of(lm, rows, max_tokens=most, **options) == alone
    assert [len(tokens) for tokens in alone] == most


def test_sampling_options_are_per_row(griffin):
    (prompt,) = prompts(1, 9)
    rows = [{}, SAMPLED, SAMPLED | {"seed": 8}, {"temperature": 2.0, "top_k": 3, "seed": 1}]
    alone = [tokens_of(griffin, [prompt], max_tokens=20, **row)[0] for row in rows]
    assert len(set(map(tuple, alone))) == 4
    default = {"temperature": 0.0, "top_k": None, "top_p": 1.0, "seed": 0}
    columns = {name: [row.get(name, value) for row in rows] for name, value in default.items()}
    assert tokens_of(griffin, [prompt] * 4, max_tokens=20, **columns) == alone


def test_scanned_layers_generate_the_same(griffin):
    unrolled = flat_params(griffin.model)
    config = dataclasses.replace(griffin.config, scan_layers=True)
    scanned = LanguageModel(from_flat_params(config, unrolled))
    (prompt,) = prompts(2, 21)
    expected = tokens_of(griffin, [prompt], max_tokens=10)
    assert tokens_of(scanned, [prompt], max_tokens=10) == expected


def test_bfloat16_in_a_batch_and_alone():
    half = lm_of("griffin", dtype="bfloat16", param_dtype="bfloat16")
    rows = prompts(3, 21, 4)
    batched = tokens_of(half, rows, max_tokens=10)
    assert batched == [tokens_of(half, [row], max_tokens=10)[0] for row in rows]


def test_more_tokens_than_one_call_decodes(griffin):
    (prompt,) = prompts(4, 5)
    long = tokens_of(griffin, [prompt], max_tokens=CAPACITY + 20, **SAMPLED)[0]
    assert len(long) == CAPACITY + 20
    assert tokens_of(griffin, [prompt], max_tokens=CAPACITY, **SAMPLED)[0] == long[:CAPACITY]
    later = tokens_of(griffin, [prompt + long[:-20]], max_tokens=20)[0]
    assert len(later) == 20


def compilations(call) -> int:
    """How many programs `call` makes XLA compile."""
    calls = []

    def listen(event: str, duration_secs: float, **kwargs) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            calls.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(calls)


def test_a_new_length_compiles_nothing_again():
    """Neither of the prompt, nor of the answer, nor another sampling option."""
    lm = lm_of("griffin")

    def call(length: int, max_tokens: int, **options) -> None:
        tokens_of(lm, prompts(length, length), max_tokens=max_tokens, **options)

    # A first chunk of 16, more of 4 and of 16; a first one of 4; none.
    assert all(compilations(lambda n=length: call(n, 9)) > 0 for length in (39, 4, 1))
    for length in (*range(1, 30), 41, 50, 63):
        assert compilations(lambda n=length: call(n, n + 3)) == 0, length
    assert compilations(lambda: call(70, 300, **SAMPLED)) == 0
    assert compilations(lambda: call(3, 5, temperature=0.5, top_k=4, min_p=0.1)) == 0


def test_a_call_does_not_go_to_the_device_for_every_token(griffin, monkeypatch):
    calls = []
    advance = griffin._generator.advance
    monkeypatch.setattr(
        griffin._generator, "advance", lambda *a, **k: calls.append(1) or advance(*a, **k)
    )
    tokens_of(griffin, prompts(0, 9, 3), max_tokens=200)
    assert len(calls) == 1


def test_the_loop_ends_with_the_last_row(griffin):
    options = DecodeOptions(
        sampling_arrays([Sampling()] * 2), np.full((2, 1), -1, np.int32), np.array([3, 5], np.int32)
    )
    decode_state = griffin._generator.start([[1, 2], [3]])
    decode_state, decoded = griffin._generator.advance(decode_state, options, 100)
    assert decode_state.state.position_B.tolist() == [6, 5]  # five steps, of a hundred
    assert decoded.taken_B.tolist() == [3, 5]


def packed(allowed_BV: np.ndarray) -> np.ndarray:
    """A bit a token, as llguidance packs them."""
    bits = np.pad(allowed_BV, ((0, 0), (0, -allowed_BV.shape[1] % 32)))
    return np.packbits(bits, axis=1, bitorder="little").view("<i4")


def test_only_allowed_tokens_are_drawn_and_other_rows_stay_bit_for_bit():
    """67 tokens: three words, of the last of which three bits count."""
    lm = lm_of("griffin", vocab_size=67)
    prompt = prompts(5, 9, 4, 7, 1)
    rows = [Sampling(), *(Sampling(temperature=1.5, top_k=40, seed=s) for s in range(3))]
    options = DecodeOptions(
        sampling_arrays(rows), np.full((4, 1), -1, np.int32), np.full(4, 24, np.int32)
    )
    random, generator = np.random.default_rng(0), lm._generator

    def run(masked: bool) -> tuple[list, list, Any]:
        state, tokens, logps = generator.start(prompt), [], []
        for _ in range(24):
            allowed_BV = np.ones((4, 67), bool)
            allowed_BV[:2] = random.random((2, 67)) < 0.1  # others after each token
            allowed_BV[:2, random.integers(67)] = True
            bits = packed(allowed_BV) if masked else None
            state, decoded = generator.advance(state, options, 1, allowed_BM=bits, top=2)
            (token_B, logp_B) = np.asarray(decoded.tokens_BC)[:, 0], np.asarray(decoded.logp_BC)
            if masked:
                assert allowed_BV[range(4), token_B].all()
            tokens.append(token_B)
            logps.append(logp_B[:, 0])
        return tokens, logps, state

    tokens, logps, state = run(masked=True)
    free_tokens, free_logps, free_state = run(masked=False)
    for one, other in ((tokens, free_tokens), (logps, free_logps)):
        np.testing.assert_array_equal(np.array(one)[:, 2:], np.array(other)[:, 2:])
        assert (np.array(one)[:, :2] != np.array(other)[:, :2]).mean() > 0.5
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(free_state), strict=True):
        np.testing.assert_array_equal(one[2:], other[2:])
    for row in range(4):  # log-probabilities are those of the model, which knows no mask
        ids = [*prompt[row], *(int(token_B[row]) for token_B in tokens)]
        scores = lm.score(ids)[-24:]
        np.testing.assert_allclose([logp_B[row] for logp_B in logps], scores, atol=2e-5)


def test_greedy_takes_the_likeliest_of_what_is_allowed(griffin):
    (prompt,) = prompts(6, 12)
    logits_V = griffin.logits([prompt])[0, -1]
    allowed_BV = np.zeros((1, 64), bool)
    allowed_BV[0, np.argsort(logits_V)[:20]] = True  # the least likely ones
    options = DecodeOptions(
        sampling_arrays([Sampling()]), np.full((1, 1), -1, np.int32), np.full(1, 9, np.int32)
    )
    for bits in (packed(allowed_BV), packed(allowed_BV).view(np.uint32)):
        state = griffin._generator.start([prompt])
        _, decoded = griffin._generator.advance(state, options, 1, allowed_BM=bits)
        assert int(decoded.tokens_BC[0, 0]) == np.argsort(logits_V)[19]


@pytest.mark.parametrize(
    ("bits", "steps", "message"),
    [
        (np.ones((2, 3), np.uint32), 2, "steps is 2: expected 1 with allowed_BM"),
        (np.ones((2, 2), np.uint32), 1, r"shape \(2, 2\): expected 32-bit words of shape \(2, 3\)"),
        (np.ones((2, 3), np.int64), 1, "is int64 of shape"),
        (np.array([[1, 0, 0], [0, 0, 0xFFFFFFF8]], np.uint32), 1, "row 1 allows no token"),
    ],
)
def test_bits_that_cannot_be(bits, steps, message):
    with pytest.raises(ValueError, match=message):
        check_allowed(bits, steps, 2, 67)


def test_what_is_not_masked_pays_nothing(griffin):
    """Without bits the program is another one, in which none are unpacked."""
    generator = griffin._generator
    options = DecodeOptions(
        sampling_arrays([Sampling()] * 3), np.full((3, 1), -1, np.int32), np.full(3, 9, np.int32)
    )
    for bits, expected in ((None, False), (np.ones((3, 2), np.uint32), True)):
        state = generator.start(prompts(0, 4, 1, 2))
        lowered = generator._decode.lower(
            generator.params, state, options, np.int32(1), bits, top=None
        )
        assert ("tensor<3x2x32xui32>" in lowered.as_text()) == expected


# From here on with a tokenizer: what ends a text.
