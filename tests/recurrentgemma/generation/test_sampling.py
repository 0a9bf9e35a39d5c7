# SPDX-License-Identifier: Apache-2.0
"""Sampling is checked when it is made; keywords for several prompts become one value for each."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling, SamplingOptions, samplings


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("max_tokens", -1),
        ("max_tokens", 2**31),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("stop", ("",)),
        ("stop", ("end", 5)),
        ("stop", 5),
        ("stop", ("half a character: \ud800",)),
        ("seed", 2**64),
        ("seed", 0.5),
        ("logit_bias", {5: 100.5}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {"5": 1}),
        ("logit_bias", ((5,),)),
        ("frequency_penalty", 2.1),
        ("presence_penalty", float("nan")),
        ("repetition_penalty", 0),
        ("stop_token_ids", tuple(range(17))),
        ("stop_token_ids", 5),
        ("ignore_eos", 1),
        ("min_tokens", -1),
        ("min_tokens", 129),
    ],
)
def test_values_out_of_range(option, bad):
    with pytest.raises(UserError, match=f"{option} is .*expected"):
        Sampling(**{option: bad})
    with pytest.raises(UserError, match=f"{option} is .*expected"):
        dataclasses.replace(Sampling(), **{option: bad})
    good = getattr(Sampling(), option)
    with pytest.raises(UserError, match=f"{option} is .*expected"):
        samplings(2, {option: [good, bad]})


def test_a_sampling_is_a_value():
    """Equal options are equal, whatever kind of number they came as."""
    given: dict[str, Any] = {"top_k": np.int32(4), "seed": np.uint64(2**64 - 1), "stop": "end"}
    from_numpy = Sampling(temperature=np.float64(0.5), **given)
    plain = Sampling(temperature=0.5, top_k=4, seed=2**64 - 1, stop=("end",))
    assert from_numpy == plain
    assert hash(from_numpy) == hash(plain)
    assert type(from_numpy.seed) is int
    assert isinstance(Sampling(temperature=1).temperature, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.temperature = 1.0  # type: ignore[misc]


def test_one_value_for_all_prompts_or_one_for_each():
    assert samplings(2, {}) == [Sampling(), Sampling()]
    rows = samplings(
        2, {"temperature": [0.5, 1], "seed": np.array([3, 4]), "top_k": (None, 2), "min_p": 0.1}
    )
    assert rows == [
        Sampling(temperature=0.5, seed=3, top_k=None, min_p=0.1),
        Sampling(temperature=1.0, seed=4, top_k=2, min_p=0.1),
    ]
    with pytest.raises(UserError, match="temperature has 3 values for 2 prompts"):
        samplings(2, {"temperature": [1, 1, 1]})


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("a", [("a",), ("a",)]),
        (["a", "b", "c"], [("a", "b", "c")] * 2),
        ([["a"], []], [("a",), ()]),
        ([], [(), ()]),
    ],
)
def test_stop_strings_are_shared_or_one_list_a_prompt(stop, expected):
    assert [row.stop for row in samplings(2, {"stop": stop})] == expected


def test_tokens_and_biases_are_shared_or_one_a_prompt():
    both = samplings(2, {"stop_token_ids": [7, 8], "logit_bias": {5: 1, 3: -2}})
    assert [row.stop_token_ids for row in both] == [(7, 8)] * 2
    assert [row.logit_bias for row in both] == [((3, -2.0), (5, 1.0))] * 2
    assert samplings(2, {"logit_bias": [(3, -2), (5, 1)]})[1].logit_bias == both[0].logit_bias
    one_each = samplings(2, {"stop_token_ids": [[7], []], "logit_bias": [{5: 1}, {}]})
    assert [row.stop_token_ids for row in one_each] == [(7,), ()]
    assert [row.logit_bias for row in one_each] == [((5, 1.0),), ()]
    assert [row.changes_logits for row in one_each] == [True, False]


def test_the_keywords_are_the_fields():
    fields = {field.name for field in dataclasses.fields(Sampling)}
    assert set(SamplingOptions.__annotations__) == fields


def test_a_sampling_needs_no_jax():
    """The command line reads its options before JAX is imported, which takes a second."""
    code = "import sys, recurrentgemma.generation.sampling; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
