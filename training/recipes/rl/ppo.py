# SPDX-License-Identifier: Apache-2.0
"""PPO-Clip (Schulman et al., 2017) as "No Representation, No Trust" (arXiv 2405.00662) has it, with
its interventions as choices: an agent, and its update as one program.

    agent = PPO(PPOChoices(actor=MLPConfig(...), critic=MLPConfig(...)), shape, policy)
    state = agent.start(key)
    drawn_B = agent.act(state, observation_BHWC, key)
    state, losses = agent.update(state, rollout, key)        # all epochs and minibatches

    ratio  = pi(a | s) / pi_old(a | s)
    L_pi   = -mean min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) - entropy H(pi)
             + feature_beta mean (z(s) - z_old(s))^2                  (PFO, see recipes/pfo)
    L_V    = 1/2 mean (V(s) - (A_old + V_old))^2

A is standardised within each minibatch. Actor and critic are two networks with an Adam and a
clipped gradient each. With `shared` they are one; then, as in the paper's code, both optimizers own
its trunk, and the gradient of both losses is stepped twice. What is "old" is computed before the
first epoch and stays for all.

`held` of `update` adds a loss of the caller's to the actor's (retention: recipes/forgetting).

The floats of the choices may be traced, so that arms run side by side. Legend: T steps of a
rollout, B environments, N = T B, M minibatch, O outputs, F features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrentgemma.errors import UserError
from training.finetuning.advantages import advantages
from training.finetuning.policy_losses import clipped_loss, feature_loss, standardised
from training.recipes.rl.distributions import Distribution
from training.recipes.rl.networks import ConvConfig, torch_default
from training.recipes.vision.layers import Outputs
from training.recipes.vision.mlp import MLPConfig
from training.recipes.vision.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOChoices:
    """The defaults are the paper's for Atari."""

    actor: MLPConfig | ConvConfig
    critic: MLPConfig | ConvConfig
    """Has no effect with `shared`, and must be the actor then."""
    shared: bool = False
    environments: int = 8
    rollout: int = 128
    """Steps of each environment between two updates."""
    epochs: int = 4
    minibatch: int = 256
    learning_rate: float = 2.5e-4
    anneal: bool = False
    """The learning rate, linearly to 0 over the run."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float = 0.1
    entropy: float = 0.01
    discount: float = 0.99
    trace: float = 0.95
    max_grad_norm: float = 0.5
    truncation_ends: bool = True
    """An episode that was cut off is worth nothing from there on; else, the critic's value."""
    feature_beta: float = 0.0
    features: Literal["last", "all"] = "last"
    reset_optimizer: bool = False
    """After each update."""

    def __post_init__(self) -> None:
        for name in ("environments", "rollout", "epochs", "minibatch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        steps = self.environments * self.rollout
        if steps % self.minibatch:
            raise UserError(
                f"minibatch={self.minibatch} does not divide the {steps:,} steps of a rollout "
                f"({self.environments} environments x {self.rollout}): choose one that does"
            )
        if self.shared and self.critic != self.actor:
            raise UserError("shared=True with another network for the critic: give the same twice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOArm:
    """A run on environments of a name, gymnax's (ppo_train.py) or gymnasium's (ppo_host.py). steps:
    of all environments together, at least; measured: how many times the metrics are taken,
    evenly."""

    choices: PPOChoices
    environment: str
    steps: int
    measured: int = 40

    @property
    def iterations(self) -> int:
        """Rollouts of the run; a whole number between two measurements."""
        rollout = self.choices.environments * self.choices.rollout
        return -(-self.steps // (rollout * self.measured)) * self.measured


class AgentState(NamedTuple):
    """Parameters of actor and critic (of both: the same tree twice, where they are shared), and the
    moments of either's Adam."""

    actor: Any
    critic: Any
    actor_opt: Any
    critic_opt: Any


class Rollout(NamedTuple):
    """[T, B, ...]; last_observation [B, ...] is what comes after it. reward: with the value of what
    was cut off, where that counts. Arrays of JAX, or of NumPy from outside of the program."""

    observation: Any
    drawn: Any
    reward: Any
    done: Any
    last_observation: Any


class Judged(NamedTuple):
    """What an actor makes of observations: outputs [N, O], the features that PFO holds [N, F], and
    those that the last layer reads [N, ...]."""

    outputs: jax.Array
    held: jax.Array
    pre_activation: jax.Array
    features: jax.Array


Held = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(the actor's parameters, the observations of a minibatch [M, ...], key) -> what is added to the
actor's loss, its weight in it."""


class _Sample(NamedTuple):
    """[N, ...] of a rollout, and what was old."""

    observation: jax.Array
    drawn: jax.Array
    log_prob: jax.Array
    held: jax.Array
    advantage: jax.Array
    target: jax.Array


class PPO:
    """See the module."""

    def __init__(
        self, choices: PPOChoices, observation_shape: tuple[int, ...], policy: Distribution
    ):
        self.choices, self.policy = choices, policy
        both = policy.outputs + 1 if choices.shared else policy.outputs
        self.actor = Network(choices.actor, image_shape=observation_shape, outputs=both)
        self.critic = Network(choices.critic, image_shape=observation_shape, outputs=1)
        self.tx = optax.chain(
            optax.clip_by_global_norm(choices.max_grad_norm),
            optax.scale_by_adam(b1=choices.b1, b2=choices.b2, eps=choices.eps),
        )

    def start(self, key: jax.Array) -> AgentState:
        """Newly initialised."""
        actor_key, critic_key = jax.random.split(key)
        actor = torch_default(self.actor.init(actor_key)[0], actor_key)
        critic = (
            actor
            if self.choices.shared
            else torch_default(self.critic.init(critic_key)[0], critic_key)
        )
        return AgentState(actor, critic, self.tx.init(actor), self.tx.init(critic))

    def act(self, state: AgentState, observation_B: jax.Array, key: jax.Array) -> jax.Array:
        """What is drawn of the policy, [B, ...]."""
        return self.policy.sample(self.judge(state.actor, observation_B).outputs, key)

    def value(self, critic: Any, observation_N: jax.Array) -> jax.Array:
        """[N], of the critic's parameters."""
        network = self.actor if self.choices.shared else self.critic
        return network.apply(critic, {}, as_floats(observation_N)).outputs_BO[:, -1]

    def judge(self, actor: Any, observation_N: jax.Array) -> Judged:
        """By the actor's parameters."""
        outputs = self.actor.apply(actor, {}, as_floats(observation_N))
        z_N = list(outputs.hidden.values())[-1].z
        return Judged(
            outputs.outputs_BO[:, : self.policy.outputs],
            held_features(outputs, self.choices.features),
            z_N,
            outputs.features_BF,
        )

    def update(
        self,
        state: AgentState,
        rollout: Rollout,
        key: jax.Array,
        share: jax.Array | float = 1.0,
        held: Held | None = None,
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """All epochs on a rollout. share: of the learning rate, where it is annealed.

        Returns the state, and the means over all minibatches of the losses by name (`held_loss`,
        where there is one).
        """
        samples = self._samples(state, rollout)
        count = samples.advantage.size
        epoch_keys = jax.random.split(key, self.choices.epochs)

        def minibatch(
            carried: AgentState, at: tuple[jax.Array, jax.Array]
        ) -> tuple[AgentState, dict[str, jax.Array]]:
            rows_M, one_key = at
            batch = jax.tree.map(lambda x: x[rows_M], samples)
            return self._step(carried, batch, one_key, share, held)

        def epoch(carried: AgentState, one_key: jax.Array) -> tuple[AgentState, Any]:
            order_key, steps_key = jax.random.split(one_key)
            order = jax.random.permutation(order_key, count).reshape(-1, self.choices.minibatch)
            keys = jax.random.split(steps_key, order.shape[0])
            return jax.lax.scan(minibatch, carried, (order, keys))

        state, losses = jax.lax.scan(epoch, state, epoch_keys)
        if self.choices.reset_optimizer:
            state = state._replace(
                actor_opt=self.tx.init(state.actor), critic_opt=self.tx.init(state.critic)
            )
        return state, jax.tree.map(jnp.mean, losses)

    def _samples(self, state: AgentState, rollout: Rollout) -> _Sample:
        choices, (steps, environments) = self.choices, rollout.reward.shape
        observation, drawn = flat(rollout.observation), flat(rollout.drawn)
        old = self.judge(state.actor, observation)
        value_TB = self.value(state.critic, observation).reshape(steps, environments)
        advantage_TB = advantages(
            rollout.reward,
            value_TB,
            rollout.done,
            self.value(state.critic, rollout.last_observation),
            discount=choices.discount,
            trace=choices.trace,
        )
        return _Sample(
            observation,
            drawn,
            self.policy.log_prob(old.outputs, drawn),
            old.held,
            advantage_TB.reshape(-1),
            (advantage_TB + value_TB).reshape(-1),
        )

    def _step(
        self,
        state: AgentState,
        batch: _Sample,
        key: jax.Array,
        share: jax.Array | float,
        held: Held | None,
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """One minibatch."""

        def actor_loss(actor: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            new = self.judge(actor, batch.observation)
            log_prob_M = self.policy.log_prob(new.outputs, batch.drawn)
            clipped = jnp.mean(
                clipped_loss(
                    log_prob_M - batch.log_prob, standardised(batch.advantage), self.choices.clip
                )
            )
            entropy = jnp.mean(self.policy.entropy(new.outputs, key))
            moved = jnp.mean(feature_loss(new.held, batch.held))
            loss = clipped - self.choices.entropy * entropy + self.choices.feature_beta * moved
            named = {"policy_loss": clipped, "entropy": entropy, "feature_loss": moved}
            if held is not None:
                named["held_loss"] = held(actor, batch.observation, jax.random.fold_in(key, 1))
                loss += named["held_loss"]
            return loss, named

        def critic_loss(critic: Any) -> jax.Array:
            value_M = self.value(critic, batch.observation)
            return 0.5 * jnp.mean(jnp.square(value_M - batch.target))

        (_, named), actor_grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        value_loss, critic_grads = jax.value_and_grad(critic_loss)(state.critic)
        rate = self.choices.learning_rate * (share if self.choices.anneal else 1.0)
        if not self.choices.shared:
            actor, actor_opt = self.stepped(state.actor, actor_grads, state.actor_opt, rate)
            critic, critic_opt = self.stepped(state.critic, critic_grads, state.critic_opt, rate)
            state = AgentState(actor, critic, actor_opt, critic_opt)
        else:
            grads = jax.tree.map(jnp.add, actor_grads, critic_grads)
            policy, value = (_of_head(grads, part) for part in (slice(None, -1), slice(-1, None)))
            params, actor_opt = self.stepped(state.actor, policy, state.actor_opt, rate)
            params, critic_opt = self.stepped(params, value, state.critic_opt, rate)
            state = AgentState(params, params, actor_opt, critic_opt)
        return state, {**named, "value_loss": value_loss}

    def stepped(self, params: Any, grads: Any, opt_state: Any, rate: Any) -> tuple[Any, Any]:
        """Parameters and moments after a step of Adam with a clipped gradient."""
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.tx.update(grads, opt_state, params)
        return jax.tree.map(lambda x, update: x - rate * update, params, updates), opt_state


def held_features(outputs: Outputs, which: Literal["last", "all"]) -> jax.Array:
    """Pre-activations of the last hidden layer, or of all, laid side by side: [N, F]."""
    layers = [layer.z for layer in outputs.hidden.values()]
    layers = layers if which == "all" else layers[-1:]
    return jnp.concatenate([z.reshape(z.shape[0], -1) for z in layers], -1)


def as_floats(observation_N: jax.Array) -> jax.Array:
    """Bytes of pictures between 0 and 1, all else as it is."""
    if observation_N.dtype == jnp.uint8:
        return observation_N.astype(jnp.float32) / 255
    return observation_N


def flat(x_TB: jax.Array) -> jax.Array:
    """[T, B, ...] -> [T B, ...]."""
    return x_TB.reshape(-1, *x_TB.shape[2:])


def _of_head(grads: Any, columns: slice) -> Any:
    """The gradient with the head's other columns 0."""
    head = {name: jnp.zeros_like(x).at[..., columns].set(x[..., columns])
            for name, x in grads["head"].items()}  # fmt: skip
    return {**grads, "head": head}
