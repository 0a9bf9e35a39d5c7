# SPDX-License-Identifier: Apache-2.0
"""SAC with and without layer norm in its networks: does it stay plastic, and does it learn better?
2402.18762 finds that layer norm and L2 help SAC on the DeepMind control suite (its section 5).

Smaller than there: one task of MuJoCo (Hopper-v5, 28 of the control suite), 100,000 steps (a
million), two layers of 256. The probe is of the first critic, on what the buffer holds: the sine of
a random critic's values, learned by its own optimizer, beside a fresh critic.

Legend: N transitions, Q the inputs of a critic.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eval.diagnostics.probe import probe, rows_task, sine_targets
from eval.diagnostics.representation import dead, units_of
from training.recipes.experiment import Cell, Experiment
from training.recipes.plasticity.agent_study import conclude_agents
from training.recipes.plasticity.learner import rows_of
from training.recipes.rl.networks import torch_default
from training.recipes.rl.replay import drawn
from training.recipes.rl.sac import SAC, SACArm, SACChoices, SACState, Transition, train_sac
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import MLPConfig

PROBE_STEPS, PROBE_ROWS = 300, 512


def sac_arms(*, widths: tuple[int, ...], steps: int, measured: int, **choices: Any):
    """{neither, critics, both} with layer norm."""
    plain, normed = (MLPConfig(widths=widths, style=Style(norm)) for norm in ("none", "layer"))
    networks = {
        "plain": (plain, plain),
        "layer norm in critics": (plain, normed),
        "layer norm": (normed, normed),
    }
    return {
        f"Hopper/{name}": SACArm(
            choices=SACChoices(actor=actor, critic=critic, **choices),
            environment="Hopper-v5",
            steps=steps,
            measured=measured,
        )
        for name, (actor, critic) in networks.items()
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def plasticity(
    agent: SAC, steps: int, rows: int, state: SACState, key: jax.Array
) -> dict[str, jax.Array]:
    """The probe's loss of the first critic, a fresh one's beside it, and its dead units."""
    batch: Transition = drawn(state.buffer, key, rows)
    seen_ND = batch.observation.reshape(rows, -1)
    x_NQ = jnp.concatenate([seen_ND, jnp.tanh(batch.drawn)], -1)
    critic = jax.tree.map(lambda x: x[0], state.critics)

    def apply(params: Any, x_MQ: jax.Array) -> jax.Array:
        return agent.critic.apply(params, {}, x_MQ[:, None, None]).outputs_BO

    def new(number: int) -> Any:
        one = jax.random.fold_in(key, number)
        return torch_default(agent.critic.init(one)[0], one)

    y_NO = sine_targets(apply, critic, new(1), x_NQ)

    def error(params: Any, some: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.mean(jnp.square(apply(params, some[0]) - some[1]))

    batch_size = min(rows, agent.choices.batch)
    task = rows_task(error, (x_NQ, y_NO), batch_size=batch_size, count=rows)
    tx = optax.adam(agent.choices.learning_rate)
    result = probe(critic, new(2), task, tx, steps=steps, key=key)
    hidden = agent.critic.apply(critic, {}, x_NQ[:, None, None]).hidden
    dead_units = [dead(units_of(*rows_of(layer))) for layer in hidden.values()]
    share = jnp.mean(jnp.concatenate(dead_units), dtype=jnp.float32)
    return {"probe": result.loss, "fresh_probe": result.fresh_loss, "dead": share}


def measure(
    cells: Sequence[Cell],
    folder: Path,
    *,
    steps: int = PROBE_STEPS,
    rows: int = PROBE_ROWS,
    **options: Any,
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """SAC's runs, with the probe at every measurement."""

    def probed(agent: SAC, state: SACState, key: jax.Array) -> dict[str, float]:
        numbers = jax.device_get(plasticity(agent, steps, rows, state, key))
        return {name: float(value) for name, value in numbers.items()}

    yield from train_sac(cells, folder, at_measurement=probed, **options)


SAC_STUDY = Experiment(
    name="sac",
    question="does layer norm keep SAC plastic, and does it raise the return?",
    cost="about 3 CPU hours, an estimate",
    seeds=3,
    arms=sac_arms(widths=(256, 256), steps=100_000, measured=20),
    measure_in=measure,
    conclude=conclude_agents,
)
