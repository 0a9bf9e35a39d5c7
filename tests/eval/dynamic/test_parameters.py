# SPDX-License-Identifier: Apache-2.0
"""Which parameters are adapted, and that the two parts make the model again."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic.config import DynamicConfig
from eval.dynamic.parameters import layers, split
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import flat_params, from_flat_params
from tests.eval.dynamic.small import CONFIG, MQA, ids_of, language_model, write_templates
from tests.recurrentgemma.models import call


def names(**choices) -> set[str]:
    return set(split(language_model(), DynamicConfig(**choices)).pretrained)


def test_what_each_choice_adapts():
    every = set(param_shapes(CONFIG))
    assert names() == every
    assert names(parameters="mlp") == {n for n in every if "/mlp_block/" in n}
    assert names(parameters="recurrence") == {n for n in every if "/rg_lru/" in n}
    assert names(parameters="attention") == {n for n in every if "/attention_block/" in n}
    biases = names(parameters="biases")
    assert {n.rpartition("/")[2] for n in biases} == {"bias", "b"}
    assert "blocks.0/recurrent_block/rg_lru/a_gate/b" in biases
    assert names(layers="1") == {n for n in every if n.startswith("blocks.1/")}
    assert names(parameters="mlp", layers="0-0") == {
        n for n in every if n.startswith("blocks.0/mlp_block/")
    }
    lora = names(parameters="lora", layers="1", lora=LoraConfig(rank=2, layers=".*/ffw_up"))
    assert lora == {f"blocks.1/mlp_block/ffw_up/weight_lora_{which}" for which in "ab"}


@pytest.mark.parametrize(
    ("parameters", "dtype"), [("mlp", "bfloat16"), ("lora", "float32"), ("code", "float32")]
)
def test_the_parts_make_the_model_that_flat_says(parameters, dtype, tmp_path):
    """A scanned bfloat16 model, too; what is adapted is float32."""
    config = dataclasses.replace(CONFIG, dtype=dtype, param_dtype=dtype, scan_layers=True)
    lm, has_code = language_model(config), parameters == "code"
    folder = write_templates(tmp_path / "templates") if has_code else ""
    parts = split(lm, DynamicConfig(parameters=parameters, templates=folder))
    assert {x.dtype for x in parts.pretrained.values()} == {jnp.dtype("float32")}
    tokens = ids_of(20)[None]
    start, _ = call(lm.model, tokens)
    model = parts.form.merge(parts.pretrained, parts.frozen)
    tolerance = 2e-5 if dtype == "float32" else 0.05
    if not has_code:  # whose mean adds something
        np.testing.assert_allclose(call(model, tokens)[0], start, atol=tolerance)
    moved = {
        name: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
        for name, x in parts.pretrained.items()
    }
    logits, _ = call(parts.form.merge(moved, parts.frozen), tokens)
    assert float(jnp.abs(logits - start).max()) > 0.05
    plain = from_flat_params(dataclasses.replace(config, scan_layers=False), parts.flat(moved))
    np.testing.assert_allclose(call(plain, tokens)[0], logits, atol=tolerance)
    for name, x in flat_params(lm.model).items():
        np.testing.assert_array_equal(x, parts.base[name])


def test_templates_of_another_model_are_refused(tmp_path):
    folder = write_templates(tmp_path / "templates")
    wide = language_model(dataclasses.replace(CONFIG, mlp_width=48))
    with pytest.raises(UserError, match="its templates are not of this model"):
        split(wide, DynamicConfig(parameters="code", templates=folder))
    with pytest.raises(UserError, match="holds no hypernetwork adapters"):
        split(language_model(), DynamicConfig(parameters="code", templates=str(tmp_path)))


def test_layers_are_numbers_and_ranges():
    assert layers("", 3) == (0, 1, 2)
    assert layers("4-6, 1,5", 8) == (1, 4, 5, 6)


@pytest.mark.parametrize("text", ["3", "1-0", "a", "1-", "-1", "0-2"])
def test_other_layers_are_refused(text):
    with pytest.raises(UserError, match=f"layers='{text}'"):
        layers(text, 2)


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(UserError, match="parameters='recurrence': this model has none; its blocks"):
        split(language_model(MQA), DynamicConfig(parameters="recurrence"))
    with pytest.raises(UserError, match="this model has none in layers='0'"):
        split(language_model(), DynamicConfig(parameters="attention", layers="0"))
