# SPDX-License-Identifier: Apache-2.0
"""A network with its optimizer and every intervention a choice, as pure functions of its state.

    learner = Learner(Choices(network=MLPConfig()), image_shape=(28, 28, 1), numbers=10)
    state = learner.start(key)
    state, loss = learner.step(state, loss_of_outputs, x_BHWC)
    state = learner.switch(state, key)                  # at the end of a task

The choices' floats may be traced, so that arms run side by side (recipes/side_by_side.py).
Legend: B batch, N examples, O numbers or classes, K bins.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval.diagnostics.representation import dormant, units_of
from recurrentgemma.errors import UserError
from training.recipes.plasticity import method
from training.recipes.rl.heads import Head
from training.recipes.vision.layers import Hidden, Outputs
from training.recipes.vision.mlp import CNNConfig, MLPConfig, readers
from training.recipes.vision.network import Network
from training.recipes.vision.resnet import ResNetConfig
from training.recipes.vision.vit import ViTConfig

NUMBER = Head()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """Norm and activation are the network's; labels take no head but classes."""

    network: MLPConfig | CNNConfig | ResNetConfig | ViTConfig
    head: Head = NUMBER
    algorithm: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    b2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0
    decay: float = 0.0
    """Decoupled: times the learning rate and the parameter, off the parameter."""
    l2: float = 0.0
    """Times the sum of the parameters' squares, added to the loss."""
    feature_penalty: float = 0.0
    spectral_norm: bool = False
    """Of the first layer."""
    reset_head: bool = False
    """This and the next are done at the end of each task, or when a target network is renewed."""
    reset_optimizer: bool = False
    shrink: float = 1.0
    perturb: float = 0.0
    redo: bool = False
    """Recycle dormant units at every measurement and at the end of each task."""


class State(NamedTuple):
    """Of a learner: arrays alone."""

    params: Any
    stats: Any
    opt_state: Any


class Learner:
    """See the module. numbers: that its head predicts, classes included.

    Raises UserError: an intervention does not fit the network.
    """

    def __init__(self, choices: Choices, *, image_shape: tuple[int, ...], numbers: int):
        chain = isinstance(choices.network, MLPConfig | CNNConfig)
        for name in ("spectral_norm", "redo"):
            if getattr(choices, name) and not chain:
                raise UserError(
                    f"{name} with a {choices.network.kind}: expected an mlp or a cnn, where each "
                    "layer reads the one before"
                )
        self.choices, self.numbers = choices, numbers
        self.network = Network(
            choices.network, image_shape=image_shape, outputs=numbers * choices.head.outputs
        )
        self.tx = (
            optax.chain(
                optax.add_decayed_weights(choices.decay),
                optax.scale_by_learning_rate(choices.learning_rate),
            )
            if choices.algorithm == "sgd"
            else method.adam(
                choices.learning_rate,
                b2=choices.b2,
                eps=choices.eps,
                eps_root=choices.eps_root,
                decay=choices.decay,
            )
        )

    def start(self, key: jax.Array) -> State:
        """Newly initialised."""
        params, stats = self.network.init(key)
        return State(params, stats, self.tx.init(params))

    def outputs(self, params: Any, stats: Any, x_BHWC: jax.Array) -> Outputs:
        """Of the network as it is used, with running statistics."""
        return self.network.apply(self._effective(params), stats, x_BHWC)

    def step(
        self, state: State, loss: Callable[[jax.Array], jax.Array], x_BHWC: jax.Array
    ) -> tuple[State, jax.Array]:
        """One update. loss(outputs_BOK) -> the mean loss of the batch, without penalties."""

        def whole(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            outputs, stats = self.network.train(self._effective(params), state.stats, x_BHWC)
            plain = loss(self.shaped(outputs.outputs_BO))
            penalties = self.choices.l2 * method.l2(params)
            penalties += self.choices.feature_penalty * method.feature_penalty(outputs.features_BF)
            return plain + penalties, (plain, stats)

        grads, (plain, stats) = jax.grad(whole, has_aux=True)(state.params)
        params, opt_state = self.updated(state.params, grads, state.opt_state)
        return State(params, stats, opt_state), plain

    def updated(self, params: Any, grads: Any, opt_state: Any) -> tuple[Any, Any]:
        """Parameters and optimizer state after an update."""
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def shaped(self, outputs_BO: jax.Array) -> jax.Array:
        """[B, O, K]: the network's outputs by number and bin."""
        return outputs_BO.reshape(outputs_BO.shape[0], self.numbers, self.choices.head.outputs)

    def switch(self, state: State, key: jax.Array) -> State:
        """What is done between tasks: resets, shrink and perturb."""
        fresh, _ = self.network.init(key)
        params, opt_state = state.params, state.opt_state
        if self.choices.reset_head:
            params = method.reset_head(params, fresh)
        params = method.shrink_and_perturb(
            params, fresh, shrink=self.choices.shrink, perturb=self.choices.perturb
        )
        if self.choices.reset_optimizer:
            opt_state = self.tx.init(params)
        return State(params, state.stats, opt_state)

    def recycled(self, state: State, x_NHWC: jax.Array, key: jax.Array) -> State:
        """ReDo, where it is chosen: of units that are dormant on these images."""
        network = self.choices.network
        if not self.choices.redo:
            return state
        assert isinstance(network, MLPConfig | CNNConfig)
        hidden = self.outputs(state.params, state.stats, x_NHWC).hidden
        params, opt_state = method.recycled(
            state.params,
            state.opt_state,
            self.network.init(key)[0],
            {name: dormant(units_of(*rows_of(layer))) for name, layer in hidden.items()},
            readers(network, self.network.image_shape),
            self.tx,
        )
        return State(params, state.stats, opt_state)

    def _effective(self, params: Any) -> Any:
        return method.spectrally_normalised(params) if self.choices.spectral_norm else params


def rows_of(layer: Hidden) -> tuple[jax.Array, jax.Array]:
    """z and a as [rows, units]: a unit of a convolution has a row for each position."""
    return layer.z.reshape(-1, layer.z.shape[-1]), layer.a.reshape(-1, layer.a.shape[-1])


def weights_norm(params: Mapping[str, Any]) -> jax.Array:
    """The L2 norm of all parameters."""
    return jnp.sqrt(method.l2(params))
