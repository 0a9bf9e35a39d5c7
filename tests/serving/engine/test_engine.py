"""The engine answers what `LanguageModel.generate` answers, whoever else is there and whenever."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from serving.engine import engine as engine_module
from serving.engine.chunks import GRID, last_boundary
from serving.engine.engine import STEPS_BETWEEN, Engine
from serving.engine.request import GenerationRequest
from serving.features.prefix_cache import PrefixCache


@pytest.fixture(scope="module", params=["griffin", "hawk", "mqa"])
def engine(request, griffin, language_model) -> Engine:
    if request.param == "griffin":
        return griffin
    return Engine(language_model(request.param), slots=3)


def run(engine: Engine, arrivals, *, cancelled=()) -> dict[int, list]:
    """Submit `arrivals[i] = (step, request)` before that step, cancel some two steps later, and
    return the events of each."""
    ids, events, step = {}, {}, 0
    while len(ids) < len(arrivals) or engine.busy:
        for i, (when, request) in enumerate(arrivals):
            if when <= step and i not in ids:
                ids[i] = engine.submit(request)
                events[ids[i]] = []
            if i in cancelled and when + 2 == step and not finished(events[ids[i]]):
                engine.cancel(ids[i])
        for event in engine.step():
            events[event.request_id].append(event)
        step += 1
    return {i: events[ids[i]] for i in ids}


def finished(events) -> bool:
    return bool(events) and events[-1].finish_reason is not None


def text(events) -> str:
    return "".join(event.text for event in events)


def request_of(prompt, *, logprobs=None, prompt_logprobs=False, **options) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        sampling=Sampling(**options),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


requests = st.builds(
    request_of,
    st.lists(st.integers(0, 255), min_size=1, max_size=60).map(tuple),
    max_tokens=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 20]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.02]),
    stop=st.sampled_from([(), ("e",), ("ab", "\n", "t")]),
    seed=st.integers(-(2**63), 2**63 - 1),
    stop_token_ids=st.sampled_from([(), (66, 101)]),
    ignore_eos=st.booleans(),
)


@settings(max_examples=8)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 6), requests), min_size=1, max_size=9),
    cancelled=st.sets(st.integers(0, 8), max_size=2),
    steps=st.integers(1, 32),
    block_seconds=st.sampled_from([0.0, 0.04]),  # 0: a chunk a step, so that prompts take turns
)
def test_answers_do_not_depend_on_arrival_or_neighbours(
    engine, arrivals, cancelled, steps, block_seconds
):
    engine._steps = steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "BLOCK_SECONDS", block_seconds)
        answers = run(engine, arrivals, cancelled=cancelled)
    for i, (_, request) in enumerate(arrivals):
        if i in cancelled and not finished(answers[i]):
            continue
        expected = engine.lm.complete([request.prompt], sampling=request.sampling)[0]
        assert text(answers[i]) == expected.text
        assert answers[i][-1].finish_reason == expected.finish_reason
        assert not any(finished(answers[i][:n]) for n in range(len(answers[i])))
    assert engine.running == 0


def test_sixty_four_requests_through_three_slots(griffin):
    rng = np.random.default_rng(0)
    arrivals = []
    for i in range(64):
        prompt = tuple(rng.integers(0, 256, rng.integers(1, 70)).tolist())
        logprobs = [None, None, 2][i % 3]
        request = request_of(prompt, max_tokens=16, temperature=1.0, seed=i, logprobs=logprobs)
        arrivals.append((int(rng.integers(0, 40)), request))
    answers = run(griffin, arrivals)
    for i, (_, request) in enumerate(arrivals):
        assert text(answers[i]) == griffin.lm.generate(request.prompt, sampling=request.sampling)


def test_idle_slots_do_not_spoil_those_that_come(engine):
    """Empty slots are decoded too, here beyond what global attention can hold."""
    for _ in range(2):
        request = request_of((65,), max_tokens=100, temperature=1.0, seed=1)
        run(engine, [(0, request)])
    three = [(0, request_of((65, i), max_tokens=20, temperature=1.0, seed=i)) for i in range(3)]
    answers = run(engine, three)
    for i, (_, request) in enumerate(three):
        assert text(answers[i]) == engine.lm.generate(request.prompt, sampling=request.sampling)


def test_nothing_is_compiled_after_the_warm_up(griffin):
    engine = griffin
    engine.warm_up()  # again: another module's tests may have cleared JAX's caches
    programs = engine._programs
    compiled = [programs._read.jitted, programs._score.jitted, programs._read._fresh]
    compiled += [programs._decode, programs._insert, programs._change]
    before = [function._cache_size() for function in compiled]
    for length in (1, 2, 17, 70, 100):
        request = request_of(
            (65,) * length,
            max_tokens=length % 9,
            logprobs=3,
            prompt_logprobs=length > 1,
            stop_token_ids=(length,),
            presence_penalty=length % 2,
        )
        run(engine, [(0, request), (1, dataclasses.replace(request, logprobs=None))])
    assert [function._cache_size() for function in compiled] == before


def test_log_probabilities(griffin):
    engine, lm = griffin, griffin.lm
    prompt = tuple(lm.tokenizer.encode("To be or not to be, that is the question"))
    request = request_of(
        prompt, max_tokens=12, temperature=1.0, seed=4, logprobs=3, prompt_logprobs=True
    )
    events = run(engine, [(0, request)])[0]
    prompt_scores = [score for event in events for score in event.prompt_scores]
    assert [score.token_id for score in prompt_scores] == list(prompt)
    assert prompt_scores[0].logprob is None
    np.testing.assert_allclose(
        [score.logprob for score in prompt_scores[1:]], lm.score(list(prompt)), atol=1e-5
    )
    assert [score.offset for score in prompt_scores] == [0, *range(len(prompt) - 1)]  # bos has none
    for score in prompt_scores[1:]:
        assert len(score.top) == 3
        assert score.logprob <= score.top[0][1] + 1e-6
    expected = lm.complete([prompt], logprobs=3, sampling=request.sampling)[0]
    scores = [score for event in events for score in event.scores]
    assert [score.token_id for score in scores] == expected.tokens
    np.testing.assert_allclose([s.logprob for s in scores], expected.logprobs, atol=1e-5)
    assert [[id for id, _ in s.top] for s in scores] == [
        [id for id, _ in top] for top in expected.top_logprobs
    ]


def test_reading_a_prompt_only(griffin):
    request = request_of((65, 66), max_tokens=0, logprobs=0, prompt_logprobs=True)
    events = run(griffin, [(0, request)])[0]
    assert [score.token_id for score in events[0].prompt_scores] == [65, 66]
    assert events[-1].finish_reason == "length"
    assert events[-1].num_generated == 0


def test_a_stop_token_ends_and_counts(griffin):
    lm = griffin.lm
    samplings = [Sampling(max_tokens=120, temperature=2.0, seed=seed) for seed in range(50)]
    sampling = next(
        s for s in samplings if lm.complete([[65]], sampling=s)[0].finish_reason == "stop"
    )
    events = run(griffin, [(0, GenerationRequest(prompt=(65,), sampling=sampling))])[0]
    expected = lm.complete([[65]], sampling=sampling)[0]
    assert (text(events), events[-1].finish_reason) == (expected.text, "stop")
    *ids, last = [id for event in events for id in event.token_ids]
    assert ids == expected.tokens
    assert last in lm.tokenizer.stop_ids
    assert events[-1].num_generated == len(ids) + 1


def test_decoding_goes_on_while_a_long_prompt_is_read(griffin, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.0)  # a chunk a step, a token a step
    engine = griffin
    short = engine.submit(request_of((1,), max_tokens=1000))
    engine.step()
    long = engine.submit(request_of((2,) * 6000, max_tokens=5))
    owners = [{event.request_id for event in engine.step()} for _ in range(3)]
    assert len(engine._intake.reading) == 1
    assert all(owner == {short} for owner in owners if owner)
    engine.cancel(long)
    assert len(engine._intake.reading) == 0
    engine.cancel(short)
    assert not engine.busy


def test_a_short_prompt_does_not_wait_for_long_ones(griffin, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.0)
    long = [request_of((i,) * 6000, max_tokens=3, temperature=1.0, seed=i) for i in (2, 3)]
    short = request_of((65,) * 40, max_tokens=3, temperature=1.0, seed=9)  # three chunks
    ids = [griffin.submit(request) for request in long]
    griffin.step()
    ids.append(griffin.submit(short))
    events, steps = {id: [] for id in ids}, 0
    while griffin.busy:
        steps += 1
        for event in griffin.step():
            events[event.request_id].append(event)
            if event.request_id == ids[2] and len(events[ids[2]]) == 1:
                assert steps <= 2 * 3 + 1
                assert len(griffin._intake.reading) == 2
    for id, request in zip(ids, [*long, short], strict=True):
        assert text(events[id]) == griffin.lm.generate(request.prompt, sampling=request.sampling)


def test_short_prompts_do_not_starve_a_long_one(griffin, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.0)
    long = griffin.submit(request_of((2,) * 1000, max_tokens=1))  # of eight chunks
    for _ in range(40):
        griffin.submit(request_of((65,) * 10, max_tokens=1))
        if any(event.request_id == long for event in griffin.step()):
            break
    else:
        raise AssertionError("the long prompt has not been read")
    while griffin.busy:
        griffin.step()


@pytest.fixture
def dispatches(griffin, monkeypatch) -> list[int]:
    """The steps of each dispatch."""
    asked, decode = [], griffin._slots.decode

    def recorded(steps, **options):
        asked.append(steps)
        return decode(steps, **options)

    monkeypatch.setattr(griffin._slots, "decode", recorded)
    return asked


def test_a_dispatch_ends_with_an_answer_while_somebody_waits(griffin, dispatches, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 1e9)
    griffin._steps = 32
    arrivals = [(0, request_of((65,), max_tokens=n, ignore_eos=True)) for n in (7, 30, 30, 25)]
    run(griffin, arrivals)
    assert dispatches == [STEPS_BETWEEN, 7 - STEPS_BETWEEN, 32]


def test_blocks_are_longer_while_all_slots_are_taken(griffin, dispatches, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 1e-9)
    monkeypatch.setattr(engine_module, "FULL_BLOCKS", 1e18)
    one = request_of((65,), max_tokens=40, ignore_eos=True)
    griffin._steps = 1
    run(griffin, [(0, one)] * 2)
    assert set(dispatches) == {1}
    dispatches.clear()
    run(griffin, [(0, one)] * 3)
    assert dispatches[:4] == [1, 2, 4, 8]


def test_prompts_that_are_read_hold_no_more_states_than_there_are_slots(griffin, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.0)
    for i in range(7):
        griffin.submit(request_of((2,) * (50 + 16 * i), max_tokens=20))
    while griffin.busy:
        griffin.step()
        assert griffin.running + len(griffin._intake.reading) <= griffin.slots


def test_cancelling(griffin):
    engine = griffin
    request = request_of((1,), max_tokens=1000)
    ids = [engine.submit(request) for _ in range(5)]
    engine.step()
    assert engine.running == 3
    for id in ids:
        engine.cancel(id)
    assert engine.running == 0
    assert not engine.busy
    assert engine.step() == []
    with pytest.raises(ValueError, match="there is no request"):
        engine.cancel(ids[0])


BAD = {
    "empty": ({"prompt": ()}, "prompt", "the prompt is empty"),
    "outside": ({"prompt": (1, 261)}, "prompt", "token 261 is outside the vocabulary of 261"),
    "negative": ({"prompt": (-1,)}, "prompt", "token -1 is outside"),
    "huge": ({"prompt": (5, 2**70)}, "prompt", f"token {2**70} is outside"),
    "array": ({"prompt": np.array([3, 300])}, "prompt", "token 300 is outside"),
    "logprobs": ({"logprobs": 6}, "logprobs", "expected 0 to 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(griffin, case):
    change, field, message = BAD[case]
    request = dataclasses.replace(request_of((1,), max_tokens=2), **change)
    with pytest.raises(UserError, match=message) as caught:
        griffin.submit(request)
    assert caught.value.field == field
    assert not griffin.busy


def test_the_context_of_global_attention(language_model):
    engine = Engine(language_model("mqa"), slots=1)
    engine.check(request_of((1,) * 100, max_tokens=29))
    for length, max_tokens, field in [(100, 30, "max_tokens"), (129, 1, "prompt")]:
        with pytest.raises(UserError, match="need 129 tokens of context") as caught:
            engine.check(request_of((1,) * length, max_tokens=max_tokens))
        assert caught.value.field == field


def test_the_longest_prompt(language_model):
    engine = Engine(language_model("hawk"), slots=1, max_prompt=9)
    assert len(engine.tokens("12345678")) == 9  # with bos
    with pytest.raises(UserError, match="has 10 tokens, and at most 9 are taken") as caught:
        engine.tokens("123456789")
    assert caught.value.field == "prompt"


def test_local_attention_has_no_longest_context(griffin):
    griffin.check(request_of((1,) * 1000, max_tokens=10**6))


def test_half_a_character_is_no_text(griffin):
    with pytest.raises(ValueError, match="this is no text: its character 1 is"):
        griffin.tokens("a\ud800")


def test_without_a_tokenizer(language_model):
    engine = Engine(language_model("griffin", tokenizer=None), slots=1)
    request = request_of((1, 2), max_tokens=9, seed=1, temperature=1.0)
    events = run(engine, [(0, request)])[0]
    expected = engine.lm.complete([[1, 2]], sampling=request.sampling)[0].tokens
    assert [id for event in events for id in event.token_ids] == expected
    assert text(events) == ""
    assert engine.token_name(5) == "token_id:5"
    for call, field in [
        (lambda: engine.tokens("a"), "prompt"),
        (lambda: engine.submit(request_of((1, 2), stop="a")), "stop"),
    ]:
        with pytest.raises(UserError, match="tokenizer") as caught:
            call()
        assert caught.value.field == field


def test_an_answer_keeps_to_what_is_allowed(griffin, language_model, monkeypatch):
    """Digits and letters by turns; the others of the batch answer what they answer alone."""
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.2)
    engine = griffin

    def allowed(tokens):
        bits_V = np.zeros(9 * 32, np.uint8)
        bits_V[list(b"0123456789" if len(tokens) % 2 else b"abcxyz")] = 1
        return None if len(tokens) == 6 else np.packbits(bits_V, bitorder="little").view(np.uint32)

    options = {"max_tokens": 12, "temperature": 2.0, "seed": 3}
    free = request_of((65, 66), **options, stop=("zz",))
    bound = dataclasses.replace(free, constraint=lambda: allowed)
    answers = run(engine, [(0, free), (0, bound), (3, free)])
    expected = griffin.lm.generate((65, 66), sampling=free.sampling)
    assert text(answers[0]) == text(answers[2]) == expected
    ids = [id for event in answers[1] for id in event.token_ids]
    for i, id in enumerate(ids):
        assert i == 6 or chr(id) in ("0123456789" if i % 2 else "abcxyz")
    assert len(ids) >= 7
    unconstrained = Engine(language_model("hawk"), slots=1)
    for request in (bound, request_of((65,), presence_penalty=1.0)):
        with pytest.raises(ValueError, match="constrained="):
            unconstrained.submit(request)


def test_no_slots(language_model):
    with pytest.raises(ValueError, match="slots is 0"):
        Engine(language_model("hawk"), slots=0)


def ids_and_scores(events) -> tuple[list, list]:
    return (
        [id for event in events for id in event.token_ids],
        [score.logprob for event in events for score in event.scores],
    )


def test_several_answers_to_one_prompt_read_it_once(griffin):
    """More of them than slots, one with the prompt's scores, one cancelled."""
    prompt = tuple(range(40, 90))
    requests = [
        request_of(prompt, max_tokens=9, temperature=1.0, seed=seed, prompt_logprobs=seed == 3)
        for seed in range(6)
    ]
    ids = griffin.submit_all(requests)
    events = {id: [] for id in ids}
    griffin.cancel(ids[2])
    while griffin.busy:
        for event in griffin.step():
            events[event.request_id].append(event)
        assert len(griffin._intake.reading) + len(griffin._intake.ready) <= 1
    del events[ids[2]]
    for id, request in zip(ids, requests, strict=True):
        if id in events:
            expected = griffin.lm.complete([prompt], sampling=request.sampling)[0]
            assert text(events[id]) == expected.text
            assert len([s for e in events[id] for s in e.prompt_scores]) == (
                len(prompt) if request.prompt_logprobs else 0
            )
            times = events[id][-1].times
            assert times.submitted <= times.admitted <= times.read <= times.ended
    assert len({e[-1].times.admitted for e in events.values()}) == 1


@pytest.fixture(scope="module")
def cached(language_model) -> Engine:
    """Two slots, and a cache of a few states; its programs are warmed up by whoever is first."""
    cache = PrefixCache(device_bytes=2**20)
    return Engine(language_model("griffin"), slots=2, rows=2, cache=cache)


def test_a_warm_cache_changes_no_bit(cached):
    """Log-probabilities included: prompts that begin alike, one that is read beside them, and the
    next turn of a chat, which begins with prompt and answer."""
    random = np.random.default_rng(5)
    system = tuple(random.integers(0, 256, 2 * GRID + 9).tolist())
    prompts = [system + tuple(random.integers(0, 256, n).tolist()) for n in (5, 300, 40)]
    requests = [request_of(p, max_tokens=2 * GRID, ignore_eos=True, logprobs=1) for p in prompts]

    def ask(number: int, *others: int):
        answers = run(cached, [(0, requests[i]) for i in (number, *others)])
        return ids_and_scores(answers[0]), answers[0][-1].cached_tokens

    cold = {}
    for number in range(3):
        cached.cache.clear()
        cold[number], hit = ask(number)
        assert hit == 0
    cached.cache.clear()
    ask(0)
    for number, others, expected in ((1, (), 2 * GRID), (2, (0, 1), 2 * GRID), (0, (), 2 * GRID)):
        warm, hit = ask(number, *others)
        assert warm == cold[number]
        assert hit == expected

    turn = prompts[0] + tuple(cold[0][0]) + (3, 4, 5)
    following = request_of(turn, max_tokens=20, logprobs=1)
    answers = run(cached, [(0, following)])[0]
    assert answers[-1].cached_tokens == last_boundary(len(turn) - 4)  # all of the answer is read
    cached.cache.clear()
    again = run(cached, [(0, following)])[0]
    assert again[-1].cached_tokens == 0
    assert ids_and_scores(again) == ids_and_scores(answers)


def test_what_is_scored_is_read(cached):
    prompt = tuple(range(2 * GRID))
    request = request_of(prompt, max_tokens=1, logprobs=0, prompt_logprobs=True)
    for _ in range(2):
        events = run(cached, [(0, request)])[0]
        assert events[-1].cached_tokens == 0
        assert len(events[0].prompt_scores) == len(prompt)


def test_whoever_waits_comes_before_the_cache(cached, monkeypatch):
    monkeypatch.setattr(engine_module, "BLOCK_SECONDS", 0.0)
    cached.cache.clear()
    run(cached, [(0, request_of((7,) * (GRID - 5), max_tokens=GRID, ignore_eos=True))])
    first = cached.submit(request_of((7,) * (GRID - 5), max_tokens=GRID, ignore_eos=True))
    while cached.busy and not cached._intake._later:
        cached.step()
    asked = cached.submit(request_of((9,) * 5, max_tokens=1))
    while not any(event.request_id == asked for event in cached.step()):
        assert cached.busy
    assert first != asked
    while cached.busy:
        cached.step()
