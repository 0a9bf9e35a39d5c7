# SPDX-License-Identifier: Apache-2.0
"""The paper's learners: hypernetworks, linear and not, ANIL and MAML (2312.15001, appendix B).

A hypernetwork writes the weights of an MLP of `depth` hidden layers of `width`, a layer from a code
of its own; all hidden-to-hidden layers are written by one generator, the first layer and the last
by their own. A task adapts the codes, and an output bias of the linear one.

    linear:      weights = e B,  e = code scaled to norm sqrt(T);  B of variance 1 / T
    non-linear:  weights = g(code) B,  g four ELU layers of 32 with layer norm

Gradients take that norm as a constant. The written entries have variance about 1; the MLP divides
by the root of the fan-in as it computes. ANIL adapts the read-out of an MLP alone, MAML all of it.
The sizes of shared and of fast parameters equal those that the authors' code states (tests).
Legend: P points, I inputs, O outputs, T templates, L layers, F features.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrentgemma.errors import UserError

GENERATOR = 32  # width of the non-linear generator
GENERATOR_LAYERS = 4
EPSILON = 1e-5  # of layer norm


class Dense(NamedTuple):
    """w: [in, out]."""

    w: jax.Array
    b: jax.Array


def layer_shapes(inputs: int, width: int, depth: int, outputs: int) -> list[tuple[int, int]]:
    """(in, out) of the layers of an MLP."""
    sizes = [inputs, *[width] * depth, outputs]
    return list(itertools.pairwise(sizes))


def mlp(layers: list[Dense], x_PI: jax.Array, *, scaled: bool = False) -> jax.Array:
    """ReLU between layers. scaled: weights are divided by the root of the fan-in."""
    for number, layer in enumerate(layers):
        scale = layer.w.shape[0] ** -0.5 if scaled else 1.0
        x_PI = jnp.dot(x_PI, layer.w) * scale + layer.b[None]
        if number < len(layers) - 1:
            x_PI = jax.nn.relu(x_PI)
    return x_PI


def mlp_init(key: jax.Array, shapes: list[tuple[int, int]]) -> list[Dense]:
    """Truncated normal of variance 1 / fan-in, biases zero."""
    keys = jax.random.split(key, len(shapes))
    return [
        Dense(_truncated(one, shape, shape[0] ** -0.5), jnp.zeros(shape[1]))
        for one, shape in zip(keys, shapes, strict=True)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    width: int
    depth: int

    def __post_init__(self) -> None:
        if min(self.width, self.depth) < 1:
            raise UserError(f"{self.depth} layers of {self.width}: expected at least 1 of 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypernetwork(_Sizes):
    """templates: size of a layer's code. linear: else by a generator, without an output bias."""

    templates: int
    linear: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.templates < 1:
            raise UserError(f"{self.templates} templates: expected at least 1")

    def init(self, key: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
        """Banks, generators and the codes that tasks start from."""
        shapes = self._banks(inputs, outputs)
        banks_key, code_key, generator_key = jax.random.split(key, 3)
        rows = self.templates if self.linear else GENERATOR
        banks = {
            name: _truncated(one, (rows, math.prod(shape) + shape[1]), rows**-0.5)
            for one, (name, shape) in zip(
                jax.random.split(banks_key, len(shapes)), shapes.items(), strict=True
            )
        }
        limit = (3 / self.templates) ** 0.5
        code_LT = jax.random.uniform(
            code_key, (self.depth + 1, self.templates), minval=-limit, maxval=limit
        )
        shared: dict[str, Any] = {"banks": banks, "code": code_LT}
        if self.linear:
            return shared | {"bias": jnp.zeros(outputs)}
        keys = jax.random.split(generator_key, len(shapes))
        generators = [_generator_init(one, self.templates) for one in keys]
        return shared | {"generators": dict(zip(shapes, generators, strict=True))}

    def start(self, shared: Any) -> Any:
        """Codes, and the output bias of a linear one."""
        return {name: shared[name] for name in ("code", "bias") if name in shared}

    def features(self, shared: Any, x_PI: jax.Array) -> jax.Array:
        """The inputs."""
        return x_PI

    def outputs(self, shared: Any, fast: Any, features: jax.Array) -> jax.Array:
        """Of the MLP whose weights the codes give."""
        layers = self.weights(shared, fast, features.shape[-1])
        y_PO = mlp(layers, features, scaled=True)
        return y_PO + fast["bias"][None] if self.linear else y_PO

    def weights(self, shared: Any, fast: Any, inputs: int) -> list[Dense]:
        """The layers that the codes give."""
        outputs = self._outputs(shared)
        shapes = layer_shapes(inputs, self.width, self.depth, outputs)
        layers = []
        for number, (shape, code_T) in enumerate(zip(shapes, fast["code"], strict=True)):
            name = self._bank(number)
            if self.linear:
                norm = jax.lax.stop_gradient(jnp.linalg.norm(code_T) + EPSILON)
                row_T = code_T * (self.templates**0.5 / norm)
            else:
                row_T = _generated(shared["generators"][name], code_T)
            flat = row_T @ shared["banks"][name]
            split = math.prod(shape)
            layers.append(Dense(flat[:split].reshape(shape), flat[split:]))
        return layers

    def _outputs(self, shared: Any) -> int:
        return shared["banks"]["last"].shape[1] // (self.width + 1)

    def _bank(self, number: int) -> str:
        """Which one writes this layer."""
        return {0: "first", self.depth: "last"}.get(number, "hidden")

    def _banks(self, inputs: int, outputs: int) -> dict[str, tuple[int, int]]:
        shapes = layer_shapes(inputs, self.width, self.depth, outputs)
        return {self._bank(number): shape for number, shape in enumerate(shapes)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anil(_Sizes):
    """The read-out is fast, the body is shared."""

    def init(self, key: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
        """Body, and the read-out that tasks start from."""
        layers = mlp_init(key, layer_shapes(inputs, self.width, self.depth, outputs))
        return {"body": layers[:-1], "head": layers[-1]}

    def start(self, shared: Any) -> Dense:
        """The read-out."""
        return shared["head"]

    def features(self, shared: Any, x_PI: jax.Array) -> jax.Array:
        """Of the body, [P, F]."""
        return jax.nn.relu(mlp(shared["body"], x_PI))

    def outputs(self, shared: Any, fast: Dense, features: jax.Array) -> jax.Array:
        """A read-out of features."""
        return mlp([fast], features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maml(_Sizes):
    """All is fast, the start is shared."""

    def init(self, key: jax.Array, inputs: int, outputs: int) -> list[Dense]:
        """The layers that tasks start from."""
        return mlp_init(key, layer_shapes(inputs, self.width, self.depth, outputs))

    def start(self, shared: list[Dense]) -> list[Dense]:
        """All layers."""
        return shared

    def features(self, shared: list[Dense], x_PI: jax.Array) -> jax.Array:
        """The inputs."""
        return x_PI

    def outputs(self, shared: list[Dense], fast: list[Dense], features: jax.Array) -> jax.Array:
        """Of the MLP."""
        return mlp(fast, features)


def size(params: Any) -> int:
    """Of a pytree, in numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _truncated(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    """Normal within two standard deviations, scaled to this one before it is cut."""
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape)


def _generator_init(key: jax.Array, inputs: int) -> dict[str, Any]:
    sizes = [inputs, *[GENERATOR] * GENERATOR_LAYERS]
    return {
        "layers": mlp_init(key, list(itertools.pairwise(sizes))),
        "norms": [Dense(jnp.ones(size), jnp.zeros(size)) for size in sizes],
    }


def _generated(generator: dict[str, Any], code_T: jax.Array) -> jax.Array:
    """[GENERATOR]."""
    first, *norms = generator["norms"]
    row = _normed(first, code_T)
    for layer, norm in zip(generator["layers"], norms, strict=True):
        row = jax.nn.elu(_normed(norm, row @ layer.w + layer.b))
    return row


def _normed(norm: Dense, row: jax.Array) -> jax.Array:
    centred = row - row.mean()
    return centred * jax.lax.rsqrt(jnp.mean(centred**2) + EPSILON) * norm.w + norm.b
