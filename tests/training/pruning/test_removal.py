# SPDX-License-Identifier: Apache-2.0
"""Removal leaves the logits as they are where it can, and errs least where it cannot."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params, from_flat_params
from tests.drawn import untrained
from tests.recurrentgemma.models import SHORT, call
from tests.training.pruning.test_activity import documents
from training.pruning.activity import unit_activity
from training.pruning.removal import choose_units, remove_units

TEXTS = documents(90, 40)


@pytest.fixture(scope="module")
def pruned():
    """Half of the units of each layer add nothing that changes: by a zero, or a constant, hidden
    value, or by a down weight of zero. And the activity of all."""
    rng = np.random.default_rng(0)
    flat = dict(flat_params(untrained(SHORT, 1)))
    for layer in range(SHORT.num_layers):
        prefix = f"blocks.{layer}/mlp_block/"
        idle = rng.permutation(SHORT.mlp_width)[: SHORT.mlp_width // 2]
        zero, constant, unheard = np.array_split(idle, 3)
        for name in ("ffw_gate", "ffw_up"):
            weight = flat[f"{prefix}{name}/weight"]
            flat[f"{prefix}{name}/weight"] = weight.at[np.r_[zero, constant]].set(0)
            flat[f"{prefix}{name}/bias"] = flat[f"{prefix}{name}/bias"].at[constant].set(1.3)
        down = flat[f"{prefix}ffw_down/weight"]
        flat[f"{prefix}ffw_down/weight"] = down.at[:, unheard].set(0)
    return flat, unit_activity(from_flat_params(SHORT, flat), TEXTS, batch_size=2, chunk_length=64)


def logits(config, flat) -> np.ndarray:
    model = from_flat_params(config, flat)
    return np.concatenate(
        [np.asarray(call(model, TEXTS.read(n).document.ids[None, :-1])[0])[0] for n in range(2)]
    )


def test_units_that_do_not_vary_are_removed_exactly(pruned):
    flat, activity = pruned
    removal = choose_units(SHORT, flat, activity, multiple=8)
    assert removal.width == SHORT.mlp_width // 2
    assert removal.is_exact
    assert removal.constant_LF.sum() == SHORT.num_layers * SHORT.mlp_width // 2
    config, smaller = remove_units(SHORT, flat, activity, removal)
    assert config.mlp_width == 24
    before, after = logits(SHORT, flat), logits(config, smaller)
    np.testing.assert_allclose(after, before, atol=1e-5)
    forgotten = activity._replace(mean_LF=np.zeros_like(activity.mean_LF))
    config, smaller = remove_units(SHORT, flat, forgotten, removal)
    assert np.abs(logits(config, smaller) - before).max() > 1e-3  # the constants count


def test_a_criterion_ranks_the_units_that_vary(pruned):
    flat, activity = pruned
    before, errors = logits(SHORT, flat), {}
    for criterion in ("variation", "magnitude", "random"):
        removal = choose_units(SHORT, flat, activity, keep=0.34, criterion=criterion, multiple=8)
        assert removal.width == 16
        assert (removal.keep_LF.sum(1) == 16).all()
        assert not (removal.keep_LF & removal.constant_LF).any()  # these go first
        assert not removal.is_exact
        after = logits(*remove_units(SHORT, flat, activity, removal))
        errors[criterion] = np.square(after - before).mean()
    assert errors["variation"] < 0.8 * errors["random"]
    assert errors["variation"] < errors["magnitude"]


def test_what_cannot_be(pruned):
    flat, activity = pruned

    def error(message: str, **options) -> None:
        with pytest.raises(UserError, match=message):
            choose_units(SHORT, flat, activity, **options)

    error("nothing can be removed exactly: of 48 units a layer uses 24", multiple=48)
    error("keep=1.5: expected a fraction between 0 and 1", keep=1.5)
    error(
        "keep=0.05 of 48 units is 0 in multiples of 16, which leaves nothing",
        keep=0.05,
        multiple=16,
    )
    error("keep=0.95 of 48 units is 48 .* removes nothing", keep=0.95, multiple=16)
    error("multiple=0: expected a whole number", multiple=0)
