# SPDX-License-Identifier: Apache-2.0
"""The numbers of a result are those of the scores, and its plots can be drawn."""

import json
import math

import pytest

from eval.dynamic.config import DynamicConfig
from eval.dynamic.flops import flops_per_token
from eval.dynamic.retained import Retention
from eval.dynamic.stream import dynamic_evaluation
from eval.dynamic.summary import summary
from tests.eval.dynamic.small import CONFIG, PLAIN, documents, language_model


@pytest.fixture(scope="module")
def scores():
    texts, retention = documents(50, 33), Retention(documents(20), most=12)
    static = dynamic_evaluation(language_model(), texts, PLAIN.static())
    return static, dynamic_evaluation(language_model(), texts, PLAIN, retention=retention)


def test_the_numbers(scores, tmp_path):
    static, adapted = scores
    content = summary(language_model(), PLAIN, documents(50, 33), static, adapted)
    result = json.loads(json.dumps(content["result"], allow_nan=False))
    assert DynamicConfig.from_json(result["choices"]) == PLAIN
    for name, one, chosen in (("static", static, PLAIN.static()), ("adapted", adapted, PLAIN)):
        numbers = result[name]
        assert numbers["bits_per_byte"] == one.score.bits_per_byte
        assert numbers["flops_per_token"] == flops_per_token(CONFIG, chosen).per_token
        assert numbers["by_source"] == {
            "memory": {k: numbers[k] for k in numbers["by_source"]["memory"]}
        }
        buckets = numbers["by_position"]
        assert [b["tokens"] for b in buckets] == [31 + 31, 18 + 1]
        assert sum(b["tokens"] for b in buckets) == one.score.tokens
    assert result["updates"] == 7 + 4
    assert result["forgotten"] == pytest.approx(adapted.forgotten)
    assert len(result["documents"]) == 2
    first = result["documents"][0]
    assert first["static_bits_per_byte"] == pytest.approx(
        static.documents[0].score.nats / math.log(2) / 49
    )
    titles = [table.title for table in content["tables"]]
    assert titles[:2] == ["Scores", "Cost"]
    assert "retained" in titles[2]
    (row,) = (row for row in content["tables"][0].rows if row[0] == "all")
    assert row[3] == pytest.approx(row[1] - row[2])
    for draw in content["plots"].values():
        draw(tmp_path / "plot.svg")
    assert "static" in (tmp_path / "plot.svg").read_text()


def test_of_static_scoring_alone(scores):
    static, _ = scores
    content = summary(language_model(), PLAIN.static(), documents(50, 33), None, static)
    assert "adapted" not in content["result"]
    assert content["result"]["static"]["bits_per_byte"] == static.score.bits_per_byte
    assert content["result"]["forgotten"] is None
    assert [len(row) for row in content["tables"][0].rows] == [4, 4]
