# SPDX-License-Identifier: Apache-2.0
"""A batch over a cluster: each line is answered once, whoever is lost; and one over Ray itself."""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints import store
from checkpoints.ray_cluster import package_version
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from serving.batch import ray_engines
from serving.batch.answerer import Response
from serving.batch.batch import answer_all
from serving.batch.journal import open_journal
from serving.batch.lines import Line, Requests
from serving.batch.ray_engines import RayEngines
from tests.checkpoints import run_steps
from tests.ray_nodes import ended, ended_without_a_node, killed, ray_nodes


def engine() -> Any:
    """None: OneALine needs none."""


class Lost(Exception):
    pass


class LocalRay:
    """What RayEngines asks of Ray, in this process: a call is made when its answer is fetched. The
    calls whose numbers are in `lost` find their actor gone, for the reason `why`; the cluster has
    room for so many actors as `places` says, and those after them never begin."""

    exceptions = SimpleNamespace(RayActorError=Lost)

    def __init__(
        self,
        lost: tuple[int, ...] = (),
        machines: tuple[int, ...] = (2,),
        places: int = 100,
        why: str = "it was killed",
    ):
        self.lost, self.machines, self.places, self.why = lost, machines, places, why
        self.calls = self.actors = 0
        self.killed: list[Any] = []
        self.kill = self.killed.append

    def init(self, *, address: str, **options: Any) -> None:
        if address != "local":
            raise ConnectionError("nobody answers")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in self.machines]

    def shutdown(self) -> None:
        pass

    def remote(self, kind: type) -> Any:
        def new(*given: Any) -> Any:
            self.actors += 1
            actor, is_placed = kind(*given), self.actors <= self.places

            def method(call: Callable) -> Any:
                return SimpleNamespace(remote=lambda *given: Call(lambda: call(*given), is_placed))

            return SimpleNamespace(start=method(actor.start), work=method(actor.work))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=new))

    def wait(self, calls: list, *, num_returns: int, timeout: float) -> tuple[list, list]:
        ended = [call for call in calls if call.is_placed][:1]
        return ended, [call for call in calls if call not in ended]

    def get(self, call: "Call") -> Any:
        self.calls += 1
        if self.calls in self.lost:
            raise Lost(self.why)
        return call.answer()


class Call:
    def __init__(self, answer: Callable, is_placed: bool):
        self.answer, self.is_placed = answer, is_placed


class OneALine:
    """Answers the first of its lines at each step."""

    def __init__(self, engine: Any, *, model: str):
        self.lines: list[Line] = []
        self.identity = {"weights": engine, "dtype": "float32"}

    @property
    def room(self) -> bool:
        return len(self.lines) < 2

    @property
    def busy(self) -> bool:
        return bool(self.lines)

    def take(self, line: Line) -> None:
        self.lines.append(line)

    def step(self) -> list[Response]:
        return [Response(self.lines.pop(0), 200, {})]


@pytest.fixture
def cluster(monkeypatch):
    """`cluster(ray, **options)`: engines of one slot on such a cluster."""

    def begin(ray: Any, make_engine: Callable = engine, **options: Any) -> RayEngines:
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(ray_engines, "Answerer", OneALine)
        options = {"address": "local", **options}
        return RayEngines(make_engine, model="m", slots=1, **options)

    return begin


@pytest.mark.parametrize(("lost", "actors"), [((), 2), ((4,), 3), ((1, 2, 5, 9), 6)])
def test_each_line_is_answered_once(lost, actors, cluster, asked, line, tmp_path):
    requests = Requests(asked([line(f"{number}", {}) for number in range(12)]))
    ray, answers = LocalRay(lost), []
    with (
        closing(cluster(ray)) as engines,
        open_journal(tmp_path / "out.jsonl", requests, {}) as journal,
    ):
        assert len(engines) == 2
        answer_all(requests, journal, engines, answered=lambda: answers.append(1))
        assert sorted(journal.done) == sorted(requests.numbers)
    assert len(answers) == 12
    assert ray.actors == actors
    assert len(ray.killed) == 2


def test_an_engine_that_finds_no_place_gets_no_line(cluster, asked, line, tmp_path):
    """A machine is lost and no other comes: those that are left answer all."""
    requests = Requests(asked([line(f"{number}", {}) for number in range(12)]))
    ray = LocalRay(lost=(4,), places=2)
    with (
        closing(cluster(ray)) as engines,
        open_journal(tmp_path / "out.jsonl", requests, {}) as journal,
    ):
        answer_all(requests, journal, engines)
        assert sorted(journal.done) == sorted(requests.numbers)
    assert ray.actors == 3


def test_what_cannot_be_begun(cluster, asked, line, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--ray auto: there is no cluster"):
        cluster(LocalRay(), address="auto")
    with pytest.raises(UserError, match="room for 2 engines of 1 CPUs and 0 GPUs, and 3 are asked"):
        cluster(LocalRay(), count=3)
    with pytest.raises(UserError, match="room for 0 engines of 1 CPUs and 1 GPUs, and 1 "):
        cluster(LocalRay(), gpus=1.0)
    machines = LocalRay(machines=(2, 1, 1))
    message = "are 2 of 1 CPUs and 0 GPUs, 1 of 2 CPUs and 0 GPUs, which have room for 0 engines"
    with pytest.raises(UserError, match=message):
        cluster(machines, cpus=3.0)  # of four, which no machine has
    assert len(cluster(machines)) == 4

    def no_engine() -> Any:
        raise UserError("there is no checkpoint there")

    weights = iter("abcd")
    everywhere = tuple(range(1, 99))
    missing = "TemporaryActor, ip=10.0.0.7: ModuleNotFoundError: No module named 'serving'"
    here = tmp_path / "here"
    here.write_text("one")
    files = (str(here), "the digest of another")
    changed = "the machine .* has griffin-lm .*, and that of the command an older one: install the"
    requests = Requests(asked([line("a", {})]))
    for make_engine, ray, version, message in (
        (no_engine, LocalRay(), None, r"the machine \S+: there is no checkpoint there"),
        (engine, LocalRay(everywhere), None, "4 engines were lost .* it was killed; what is answ"),
        (engine, LocalRay(everywhere, why=missing), None, "machine 10.0.0.7 lacks .*'serving'.: i"),
        (engine, LocalRay(), "an older one", changed),
        (lambda: next(weights), LocalRay(), None, r"see different models .* \(weights\): give on"),
    ):
        monkeypatch.setattr(
            ray_engines, "package_version", lambda v=version: v or package_version()
        )
        with (
            closing(cluster(ray, make_engine)) as engines,
            open_journal(tmp_path / "out.jsonl", requests, {}) as journal,
            pytest.raises(UserError, match=message),
        ):
            answer_all(requests, journal, engines)
    with (
        closing(cluster(LocalRay(), files=files)) as engines,
        open_journal(tmp_path / "out.jsonl", requests, {}) as journal,
        pytest.raises(UserError, match=r"sees another model at \S+here than the command: give one"),
    ):
        answer_all(requests, journal, engines)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'griffin-lm"):
        RayEngines(engine, model="m", slots=1, address="local")


def model_of_run(folder: Path, language_model) -> Any:
    """A model, and the run folder that it came from."""
    lm = language_model("griffin")
    store.write_run_config(folder, lm.config, {})
    run_steps.save(folder, 1, flat_params(lm.model))
    lm.tokenizer.save(folder)
    return lm


def check_answers(lm: Any, out: Path, bodies: list[dict[str, Any]]) -> None:
    """Those of the model by itself, each once and in their order."""
    records = map(json.loads, out.read_text().splitlines())
    assert [record["response"]["body"]["choices"][0]["text"] for record in records] == [
        lm.generate(b["prompt"], max_tokens=b["max_tokens"], temperature=1, seed=b["seed"])
        for b in bodies
    ]


@pytest.mark.slow  # a cluster, and two engines that compile their programs
def test_a_batch_over_ray(asked, line, tmp_path, language_model):
    pytest.importorskip("ray", reason="needs Ray: pip install 'griffin-lm[ray]'")
    lm = model_of_run(tmp_path, language_model)
    bodies = [
        {"prompt": f"{n}", "max_tokens": 5 + n, "temperature": 1, "seed": n} for n in range(9)
    ]
    path, out = asked([line(f"{n}", body) for n, body in enumerate(bodies)]), tmp_path / "out.jsonl"
    options = ["--ray", "local", "--ray-engines", "2", "--ray-cpus", "0.5", "--slots", "2"]
    output, _ = ended(["batch", str(tmp_path), str(path), str(out), *options])
    assert "2 engines of 2 slots" in output
    check_answers(lm, out, bodies)


@pytest.mark.slow  # three nodes, each of which imports JAX and compiles
def test_three_nodes_one_lost_and_the_driver_too(asked, line, tmp_path, language_model):
    """The command is killed after some answers and called again; then a node is killed with all
    that its engine was asked."""
    lm = model_of_run(tmp_path, language_model)
    bodies = [
        {"prompt": f"{n}", "max_tokens": 20 + n % 7, "temperature": 1, "seed": n}
        for n in range(1000)
    ]
    path, out = asked([line(f"{n}", body) for n, body in enumerate(bodies)]), tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.part"

    def answers() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    with ray_nodes(3) as (address, tell):
        options = ["--ray", address, "--ray-engines", "3", "--ray-cpus", "1", "--slots", "2"]
        command = ["batch", str(tmp_path), str(path), str(out), *options]
        killed(command, lambda: answers() > 20)
        before = answers()
        assert not out.exists()
        ended_without_a_node(command, tell, lambda: answers() > before + 100)
    check_answers(lm, out, bodies)
