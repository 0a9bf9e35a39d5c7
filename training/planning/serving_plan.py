# SPDX-License-Identifier: Apache-2.0
"""What serving takes on a TPU slice that is not here: one step of decoding for all slots, compiled
and read as plan.py does. Its memory does not depend on how long the sequences are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from kernels import platform
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import flops_per_token
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import on_mesh
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.state import init_state
from training.planning.plan import assess, describe, held_bytes, lay


def plan_serving(
    config: GriffinConfig,
    topology: str,
    *,
    slots: int,
    mesh: MeshConfig,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The plan of one token for each of `slots` sequences, greedily chosen, with parameters in
    config.param_dtype.

    Returns: see training.planning.plan.assess.

    Raises:
      ValueError: the topology is unknown, or the mesh does not divide it, the model or the slots.
      FileNotFoundError: there is no TPU compiler here.
    """
    laid = lay(topology, mesh)
    sharding.check_model(config, laid.shape)
    sharding.check_batch(slots, laid.shape["sequence"], laid.shape)
    if laid.shape["sequence"] > 1:
        raise UserError(
            f"mesh axis sequence={laid.shape['sequence']}: decoding takes one token at a time, "
            "which cannot be cut; use data or tensor"
        )
    report(f"compiling {describe(laid)} for {topology}")
    params, state, lowered = _lower(config, laid, slots)
    resident = {"parameters": held_bytes(params), "state": held_bytes(state)}
    flops = slots * flops_per_token(config)["forward"]
    counts = {"model": flops, "per_device": flops / laid.size}
    plan = assess(topology, laid, lowered, resident, counts, slots, None)
    return {"slots": slots, "remat": None, **plan}


def _lower(config: GriffinConfig, mesh: Mesh, slots: int):
    """(shapes of the parameters, of the state, the decoding step for a TPU)."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))))
    state = jax.eval_shape(lambda: init_state(config, slots))
    param_specs, state_specs = sharding.specs(params), sharding.state_specs(config)

    def place(tree: Any, specs: Any) -> Any:
        return jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
            ),
            tree,
            specs,
        )

    def decode(params, tokens_B1, state):
        return nnx.merge(graphdef, params)(tokens_B1, state)

    in_specs = (param_specs, sharding.ROWS, state_specs)
    run = on_mesh(mesh, decode, in_specs, (sharding.LOGITS, state_specs))

    def step(params, tokens_B1, state):
        logits_B1V, state = run(params, tokens_B1, state)
        return jnp.argmax(logits_B1V, -1).astype(jnp.int32), state

    tokens = jax.ShapeDtypeStruct(
        (slots, 1), jnp.int32, sharding=NamedSharding(mesh, sharding.ROWS)
    )
    params, state = place(params, param_specs), place(state, state_specs)
    with platform.lowering_for("tpu"):
        return params, state, jax.jit(step, donate_argnums=2).lower(params, tokens, state)
