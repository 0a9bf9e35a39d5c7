# SPDX-License-Identifier: Apache-2.0
"""Sessions that learn change no bit of anybody else, and no state of one version meets another."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig, OptimizerConfig, ReplayConfig
from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.lora_config import LoraConfig
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.features import adaptation
from serving.features.adaptation import (
    CHOICES,
    AdaptationBusy,
    AdaptationDamaged,
    Adaptations,
    check_choices,
    warm_up,
)
from serving.features.adapters import Adapters
from serving.features.prefix_cache import PrefixCache
from serving.features.sessions import Sessions

LEARNING = dataclasses.replace(
    CHOICES,
    segment_length=16,
    lora=LoraConfig(rank=2),
    optimizer=OptimizerConfig(algorithm="adam", learning_rate=0.05),
)
SAMPLING = Sampling(max_tokens=10, temperature=1.0, seed=3, ignore_eos=True)
TURNS = [tuple(b"All the world's a stage, "), tuple(b"and all the men and women "), (65, 66)]


@pytest.fixture(scope="module")
def engine(griffin) -> Engine:
    """Of eight slots: two sessions that learn, and six requests beside them."""
    lm = griffin.lm
    bank = AdapterBank(lm.model, griffin.adapters.bank.layers, count=4, rank=8)
    return Engine(lm, slots=8, bank=bank, cache=PrefixCache(device_bytes=2**24))


@pytest.fixture
def open_sessions(engine, tmp_path):
    """`open_sessions(most)`: the sessions of one folder, as a server that starts finds them."""

    def open_(most: int = 2) -> Sessions:
        folder = tmp_path / "sessions"
        adaptations = Adaptations(folder, engine.lm, engine.adapters, most=most, choices=LEARNING)
        return Sessions(folder, engine.lm, adaptations=adaptations)

    return open_


def answers(engine, requests) -> tuple[list[list], list]:
    """Scores and states."""
    ids = [engine.submit(request) for request in requests]
    scores, states = {id: [] for id in ids}, {}
    while engine.busy:
        for event in engine.step():
            scores[event.request_id] += event.scores
            states[event.request_id] = event.state
    return [scores[id] for id in ids], [states[id] for id in ids]


def asked(lease, ids) -> GenerationRequest:
    return GenerationRequest(
        prompt=ids, sampling=SAMPLING, logprobs=2, before=lease.point, adapter=lease.adapter
    )


def turn(engine, sessions, name: str, ids, beside=()) -> tuple[list, list[list]]:
    """Of the session and of the others."""
    with sessions.lease(name) as lease:
        request = asked(lease, ids)
        (scores, *others), (state, *_) = answers(engine, [request, *beside])
        lease.answered(request, state, [score.token_id for score in scores])
    return scores, others


def test_two_that_learn_change_no_bit_of_six(engine, open_sessions):
    plain = [
        GenerationRequest(prompt=(*range(i, 40 + i),), sampling=SAMPLING, logprobs=2)
        for i in range(6)
    ]
    before, _ = answers(engine, plain)
    sessions = open_sessions()
    for name in ("a", "b", "alone"):
        sessions.create(name, adapt=True)
    told = {"a": [], "b": []}
    for ids in TURNS:
        for name, other in (("a", "b"), ("b", "a")):
            with sessions.lease(other) as lease:
                beside = [asked(lease, (70,)), *plain]
                scores, (_, *six) = turn(engine, sessions, name, (*ids, ord(name)), beside)
            told[name].append(scores)
            assert six == before
    for name in ("a", "b"):
        assert sessions.adaptation(name).version == 5
    alone = [turn(engine, sessions, "alone", (*ids, ord("a")))[0] for ids in TURNS]
    assert alone == told["a"]  # nobody beside it


def test_it_answers_with_what_it_has_learned(engine, open_sessions):
    """By the parameters of dynamic evaluation; restarted before each turn, and a fork as it."""
    open_sessions().create("a", adapt=True)
    online, seen = OnlineAdapter(engine.lm, LEARNING), []
    for number, ids in enumerate(TURNS):
        sessions = open_sessions()
        sessions.fork("a", f"fork{number}")
        scores, _ = turn(engine, sessions, "a", ids)
        assert turn(engine, sessions, f"fork{number}", ids)[0] == scores
        prompt = (*seen, *ids)
        lm = engine.lm if not number else LanguageModel(online.lm.model, engine.lm.tokenizer)
        tokens = [score.token_id for score in scores]
        assert tokens == lm.complete([prompt], sampling=SAMPLING)[0].tokens
        seen += [*ids, *tokens]
        online.feed([*ids, *tokens])
        info = sessions.adaptation("a")
        assert (info.version, info.tokens, info.stopped) == (online.version, len(seen), None)


def test_a_state_is_gone_on_with_by_its_own_version_alone(engine, open_sessions, tmp_path):
    sessions = open_sessions()
    sessions.create("a", adapt=True)
    turn(engine, sessions, "a", TURNS[0])
    with sessions.lease("a") as lease:
        assert lease.point.state is None, "version 1 has read nothing yet"
        assert lease.point.unread == lease.point.context
        first = lease.adapter
    turn(engine, sessions, "a", (65,))  # 11 tokens more, 46 in all: no segment is whole
    with sessions.lease("a") as lease:
        assert lease.adapter.version == first.version == lease.point.adapter
        assert lease.point.state is not None
        point = lease.point
        for adapter, whose in ((None, "the base"), (engine.adapters, "x")):
            if adapter is not None:
                flat = {
                    name: array * 2 for name, array in lease._adaptation._online.adapted.items()
                }
                adapter = engine.adapters.place(whose, flat, scale=1.0)
            request = dataclasses.replace(asked(lease, (66,)), adapter=adapter)
            with pytest.raises(UserError, match="a state goes on with what has computed it"):
                engine.check(request)
    with pytest.raises(UserError, match="is a session that learns"):
        engine.lm.session(tmp_path / "sessions" / "a.session")
    sessions.adapt_no_more("a")
    with sessions.lease("a") as lease:
        assert (lease.point.state, lease.adapter) == (None, None)
        assert lease.point.unread == point.context
    assert engine.lm.session(tmp_path / "sessions" / "a.session").tokens_seen == point.count


def test_turned_on_in_the_middle_it_goes_on_from_the_last_tokens(
    engine, open_sessions, monkeypatch
):
    monkeypatch.setattr(adaptation, "REREAD", 40)
    sessions = open_sessions()
    turn(engine, sessions, "a", TURNS[0])
    sessions.adapt("a")
    with sessions.lease("a") as lease:
        assert lease.point.state is not None, "the base's, which version 0 is"
    turn(engine, sessions, "a", TURNS[1])
    with sessions.lease("a") as lease:
        assert lease.point.count == 71
        assert len(lease.point.unread) == 40
    info = sessions.adaptation("a")
    assert info.tokens == 36
    sessions.adapt("a")
    assert sessions.adaptation("a") == info, "it learns already"


def test_no_state_of_another_version_is_found_in_the_cache(engine, open_sessions):
    sessions, counts = open_sessions(), engine.cache.counts
    sessions.create("a", adapt=True)
    long = tuple(np.random.default_rng(0).integers(0, 256, 300).tolist())
    hits = []
    for _ in range(2):
        turn(engine, sessions, "a", long)
        with sessions.lease("a") as lease:
            request = GenerationRequest(prompt=long, sampling=SAMPLING, adapter=lease.adapter)
        for _ in range(2):
            hit = counts.hit
            answers(engine, [request])
            hits.append(counts.hit - hit)
    assert hits == [0, 256, 0, 256]


def test_killed_between_two_files_it_learns_what_it_missed(engine, open_sessions, tmp_path):
    sessions, path = open_sessions(), tmp_path / "sessions" / "a.adapter"
    for name in ("a", "b"):
        sessions.create(name, adapt=True)
    for ids in TURNS:
        behind = path.read_bytes()
        for name in ("a", "b"):
            turn(engine, sessions, name, ids)
    path.write_bytes(behind)
    again = open_sessions()
    assert again.adaptation("a").version == 4
    assert turn(engine, again, "a", (67,))[0] == turn(engine, sessions, "b", (67,))[0]
    assert again.adaptation("a") == sessions.adaptation("b")


def test_a_long_turn_is_learned_from_at_its_end(engine, open_sessions, monkeypatch):
    monkeypatch.setattr(adaptation, "LEARNED", 32)
    sessions = open_sessions()
    sessions.create("a", adapt=True)
    turn(engine, sessions, "a", tuple(range(100)))
    assert sessions.adaptation("a").version == 1  # of 31 pairs
    assert sessions.adaptation("a").tokens == 110


def test_bounds(engine, open_sessions):
    """So many are in memory at once; the others wait in their files."""
    sessions = open_sessions(most=1)
    for name in ("a", "b"):
        sessions.create(name, adapt=True)
        turn(engine, sessions, name, TURNS[0])
    versions = []
    for name in ("a", "b", "a"):
        with sessions.lease(name) as lease:
            versions.append(lease.adapter.version)
            with pytest.raises(AdaptationBusy, match="1 sessions that learn are answering"):  # noqa: SIM117
                with sessions.lease("a" if name == "b" else "b"):
                    pass
    assert versions[0] == versions[1] == versions[2], "they have read the same"
    sessions.delete("b")
    sessions.create("b")
    assert not sessions.info("b").learns
    with pytest.raises(UserError, match="no session learns on this server"):
        Sessions(sessions._folder, engine.lm).create("c", adapt=True)


def test_after_a_loss_that_is_not_finite_it_learns_no_more(engine, open_sessions):
    sessions = open_sessions()
    sessions.create("a", adapt=True)
    turn(engine, sessions, "a", TURNS[0])
    with sessions.lease("a") as lease:
        learner = lease._adaptation._online._learner
        state = learner.streams.state
        layers = tuple(type(layer)(*(x * np.nan for x in layer)) for layer in state.layers)
        learner.streams = learner.streams._replace(state=state._replace(layers=layers))
    turn(engine, sessions, "a", TURNS[1])
    info = sessions.adaptation("a")
    assert "the loss is not finite" in info.stopped
    with sessions.lease("a") as lease:
        version = lease.adapter.version
        assert all(np.isfinite(x).all() for x in lease._adaptation._online.adapted.values())
    turn(engine, open_sessions(), "a", TURNS[2])
    with sessions.lease("a") as lease:
        assert lease.adapter.version == version == lease.point.adapter
    assert sessions.adaptation("a").version == info.version


def test_a_damaged_adapter_is_refused_and_the_others_live_on(engine, open_sessions):
    sessions = open_sessions()
    for name in ("a", "b"):
        sessions.create(name, adapt=True)
    path = Path(sessions._folder / "a.adapter")
    path.write_bytes(path.read_bytes()[:-9])
    with (
        pytest.raises(AdaptationDamaged, match=r"session 'a': .* as the base"),
        sessions.lease("a"),
    ):
        pass
    turn(engine, sessions, "b", TURNS[0])
    sessions.adapt_no_more("a")
    turn(engine, sessions, "a", TURNS[0])


def test_an_adapter_that_is_lost_or_anothers_is_refused(engine, open_sessions):
    sessions = open_sessions()
    for name in ("a", "b"):
        sessions.create(name, adapt=True)
        turn(engine, sessions, name, (*TURNS[0], ord(name)))
    folder = sessions._folder
    (folder / "a.adapter").replace(folder / "kept")
    with pytest.raises(AdaptationDamaged, match=r"a.adapter is not there: put it back, or have it"):
        sessions.adaptation("a")
    with pytest.raises(AdaptationDamaged, match=r"a.adapter is not there"), sessions.lease("a"):
        pass
    again = open_sessions()
    (folder / "a.adapter").write_bytes((folder / "b.adapter").read_bytes())
    with pytest.raises(AdaptationDamaged, match="with another adapter"), again.lease("a"):
        pass
    (folder / "kept").replace(folder / "a.adapter")
    del sessions
    turn(engine, again, "a", TURNS[1])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (DynamicConfig(reset_parameters=False), "expected lora"),
        (DynamicConfig(parameters="lora"), "turn it off"),
        (
            dataclasses.replace(CHOICES, optimizer=OptimizerConfig(algorithm="rms")),
            "need training text",
        ),
        (dataclasses.replace(CHOICES, replay=ReplayConfig(rows=1, of="text")), "training text"),
        (
            dataclasses.replace(CHOICES, optimizer=OptimizerConfig(algorithm="none")),
            "learns something",
        ),
    ],
)
def test_choices_that_sessions_cannot_learn_by(choices, message):
    with pytest.raises(UserError, match=message):
        check_choices(choices)


def test_what_cannot_be(engine, language_model, tmp_path):
    wide = dataclasses.replace(CHOICES, lora=LoraConfig(rank=9))
    with pytest.raises(UserError, match="rank 9 are learned, and the server has places for 8"):
        Adaptations(tmp_path, engine.lm, Adapters(engine.adapters.bank), most=1, choices=wide)
    with pytest.raises(UserError, match="a model with global attention"):
        warm_up(language_model("mqa"), LEARNING)
