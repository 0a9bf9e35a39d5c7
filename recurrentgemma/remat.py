# SPDX-License-Identifier: Apache-2.0
"""Rematerialisation: what the backward pass keeps of a block, and what it computes again.

The values worth keeping have names (jax.ad_checkpoint.checkpoint_name), given where the model makes
them, in the dtype that activations have. A policy keeps some names. A name works on every platform
and in every dtype; jax's own policies look for dot_general, which a product in bfloat16 hides in
a custom gradient (kernels/dot.py).

The names are ranked by the FLOPs that it takes to compute a value again, for each byte kept. Of a
product that is its fan-in in bfloat16: two FLOPs for each of I inputs give one value of two bytes.

    attention  attention's output and log normaliser    2 (W + 1)
    outputs    linear_out, proj_final                   E or H K
    mixer      linear_x, linear_y, proj_q, k and v      D
    mlp_gate   ffw_gate                                 D
    mlp_up     ffw_up                                   D
    gates      the RG-LRU's two gates                   E / N
    recurrence the RG-LRU's output                      12, but four passes over memory

Of equals the narrow ones come first, and the MLP's wide ones last. ffw_down, norms, convolution,
rotary embedding and GELU have no name: nothing needs the first, and the others are cheap.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from kernels.kept import ATTENTION, RECURRENCE
from recurrentgemma import parallel, sharding
from recurrentgemma.config import GriffinConfig, Remat

OUTPUTS, MIXER, MLP_GATE, MLP_UP, GATES = "outputs", "mixer", "mlp_gate", "mlp_up", "gates"

KEPT: dict[Remat, tuple[str, ...]] = {
    "block": (),
    "outputs": (ATTENTION, OUTPUTS),
    "mixer": (ATTENTION, OUTPUTS, MIXER),
    "half_mlp": (ATTENTION, OUTPUTS, MIXER, MLP_GATE),
    "mlp": (ATTENTION, OUTPUTS, MLP_GATE, MLP_UP),
    "wide": (ATTENTION, OUTPUTS, MIXER, MLP_GATE, MLP_UP),
    "dots": (ATTENTION, OUTPUTS, MIXER, MLP_GATE, MLP_UP, GATES),
    "kernels": (ATTENTION, OUTPUTS, MIXER, MLP_GATE, MLP_UP, GATES, RECURRENCE),
}
"""The names that each policy keeps, from the least memory to the least recomputation. `none`, after
them, keeps everything."""
POLICIES: tuple[Remat, ...] = (*KEPT, "none")


def keep(x: jax.Array, name: str) -> jax.Array:
    """x, which a policy that has this name keeps for the backward pass."""
    return checkpoint_name(x, name)


def recomputes(config: GriffinConfig) -> bool:
    """Whether anything of a block is computed again. `auto` keeps everything, as `none` does: the
    trainer puts another policy in its place before the first step (training/planning/fit.py)."""
    return config.remat in KEPT or bool(parallel.divided(*sharding.PARAMETER_AXES))


def policy(config: GriffinConfig) -> Callable[..., bool]:
    """What jax.checkpoint keeps of a block. A gathered parameter (parallel.py) is never kept."""
    if config.remat in KEPT:
        return jax.checkpoint_policies.save_only_these_names(*KEPT[config.remat])
    return jax.checkpoint_policies.save_anything_except_these_names(parallel.GATHERED)
