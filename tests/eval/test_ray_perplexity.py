# SPDX-License-Identifier: Apache-2.0
"""Documents scored by a cluster have the scores of one machine, to rounding, whoever is lost."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from eval import ray_perplexity
from eval.perplexity_cli import main
from eval.ray_perplexity import groups_of
from recurrentgemma.errors import UserError
from tests.checkpoints.test_ray_cluster import FakeRay
from tests.docs.world import PLAY, write_model
from tests.ray_nodes import ended, ended_without_a_node, killed, ray_nodes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "run")
    texts = ["", *(PLAY[: 40 * n] for n in range(1, 12)), PLAY]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    return tmp_path


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    data = ["--data", f"jsonl:{folder}/a.jsonl", "--devices", "1", "--out", str(folder / out)]
    return [str(folder / "run"), *data, "--chunk-length", "32", "--batch-size", "1", *more]


def result(folder: Path, out: str) -> dict[str, Any]:
    return json.loads((folder / out / "result.json").read_text())["result"]


def check_same(ours: Any, theirs: Any) -> None:
    """Numbers to float32's rounding, all else alike."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            check_same(ours[name], value)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            check_same(one, other)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-6) if isinstance(theirs, float) else theirs)


def test_groups_are_all_documents_once(monkeypatch):
    class Some:
        def __init__(self, count: int):
            self.count = count

        def __len__(self) -> int:
            return self.count

        def order(self) -> range:
            return range(self.count)

    for count, size, groups in ((1, 128, 1), (128, 128, 1), (129, 128, 2), (10**6, 16, 4096)):
        dealt = groups_of(Some(count), size)  # type: ignore[arg-type]
        assert len(dealt) == groups
        assert sorted(number for group in dealt for number in group) == list(range(count))


def test_scores_of_a_cluster_are_those_alone(folder: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setattr(ray_perplexity, "PER_ROW", 4)
    main(arguments(folder, "alone"))
    scored, real = [], ray_perplexity.score_group

    def interrupted(wanted, numbers):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(numbers)
        return real(wanted, numbers)

    monkeypatch.setattr(ray_perplexity, "score_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(folder, "ray", "--ray", "local"))
    first = [number for group in scored for number in group]
    scored.clear()
    main(arguments(folder, "ray", "--ray", "local"))  # what is kept is not scored again
    assert sorted([*first, *(n for group in scored for n in group)]) == list(range(13))
    check_same(result(folder, "ray"), result(folder, "alone"))
    documents = [
        [json.loads(line) for line in (folder / out / "documents.jsonl").read_text().splitlines()]
        for out in ("ray", "alone")
    ]
    check_same(*documents)


def test_a_machine_that_sees_another_model_or_other_documents_is_refused(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    real = ray_perplexity._opened

    def other(*given: Any) -> Any:
        (model, identity), documents, mesh = real(*given)
        return (model, {**identity, "weights": "others"}), documents, mesh

    monkeypatch.setattr(ray_perplexity, "_opened", other)
    with pytest.raises(UserError, match=r"the machine \S+: at .*/run it sees another model .weigh"):
        main(arguments(folder, "ray", "--ray", "local"))

    def fewer(*given: Any) -> Any:
        model, documents, mesh = real(*given)
        documents.fingerprint = "others"
        return model, documents, mesh

    monkeypatch.setattr(ray_perplexity, "_opened", fewer)
    with pytest.raises(UserError, match=r"it sees other documents .jsonl:"):
        main(arguments(folder, "ray", "--ray", "local"))
    with pytest.raises(UserError, match="--ray-gpus has no effect without --ray"):
        main(arguments(folder, "ray", "--ray-gpus", "1"))


@pytest.mark.slow  # three nodes, each of which imports JAX and compiles
def test_three_nodes_one_lost_and_the_driver_too(folder: Path):
    text = (folder / "a.jsonl").read_text()
    (folder / "a.jsonl").write_text(text * 6)  # five groups
    with ray_nodes(3) as (address, tell):
        ended(["eval", "perplexity", *arguments(folder, "alone")])
        command = ["eval", "perplexity", *arguments(folder, "ray", "--ray", address)]

        def groups() -> int:
            return len(list((folder / "ray").glob("progress/group-*.safetensors")))

        killed(command, groups)
        ended_without_a_node(command, tell, lambda: groups() > 1)
    check_same(result(folder, "ray"), result(folder, "alone"))
