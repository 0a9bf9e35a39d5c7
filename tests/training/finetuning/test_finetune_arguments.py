# SPDX-License-Identifier: Apache-2.0
"""What the arguments about adapters mean."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from training.finetuning.finetune_arguments import (
    FinetuneArguments,
    LoraArguments,
    given_of,
    lora_config,
)


def test_adapters_count_twice_unless_alpha_is_given():
    assert lora_config(LoraArguments(rank=8)) == LoraConfig(rank=8, alpha=16.0)
    assert lora_config(LoraArguments(rank=8, layers="a")) == LoraConfig(
        rank=8, alpha=16.0, layers="a"
    )


def test_no_adapters_for_rank_zero():
    assert lora_config(LoraArguments()) is None
    assert lora_config(LoraArguments(rank=8, alpha=4.0)) == LoraConfig(rank=8, alpha=4.0)
    for given in (LoraArguments(alpha=4.0), LoraArguments(layers="a")):
        with pytest.raises(UserError, match=r"has no effect without adapters: give --lora\.rank"):
            lora_config(given)


def test_what_is_given():
    """Also of options whose default is made."""
    given = {"lora": LoraArguments(rank=2), "epochs": 7.0}
    arguments = FinetuneArguments(checkpoint="base", data=("a.jsonl",), **given)  # type: ignore[arg-type]
    assert given_of(arguments, ("retain", "lora", "answers", "epochs")) == ["lora", "epochs"]
