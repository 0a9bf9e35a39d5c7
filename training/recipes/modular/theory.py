# SPDX-License-Identifier: Apache-2.0
"""Teacher and student of 2312.15001, section 3: does a student that fits all training tasks have
the teacher's modules?

    y = relu(x W / sqrt(I)) A,    W = sum_m z_m Theta_m

The teacher's code z is hidden: the student sees inputs and outputs, and finds a code of its own for
each task. Codes are "persistent" (one for each training task, trained with the modules: the minimum
over codes that the theory speaks of) or "inferred" (the paper's runs: `inner` steps from one fixed
start, taken as constants). Beside it a learner without modules: "read-out", shared features and a
linear read-out for each task.

    alignment(teacher, student, decoder)    # 1.0: every unit of the teacher is there

Legend: M modules (of a teacher, or of a student), I inputs, H hidden units, O outputs, N tasks,
P points, G units of the teacher.
"""

import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recurrentgemma.errors import UserError
from training.optim import promoting
from training.recipes.modular.hypernetworks import Dense, mlp, mlp_init
from training.recipes.modular.method import Data, Inner, adapt
from training.recipes.modular.support import Support

RIDGE = 0.01  # of the decoder, and of read-outs
FEATURES = (64, 64)  # widths of the learner without modules


INNER = Inner(steps=300, learning_rate=3e-3, weight_decay=0.0, gradient="first order")
"""The authors'."""


class Modular(NamedTuple):
    """theta_MIH: the modules. head_HO: A."""

    theta_MIH: jax.Array
    head_HO: jax.Array

    def outputs(self, code_M: jax.Array, x_PI: jax.Array) -> jax.Array:
        """[P, O]."""
        weights_IH = jnp.einsum("m,mih->ih", code_M, self.theta_MIH)
        return jax.nn.relu(x_PI @ weights_IH * x_PI.shape[-1] ** -0.5) @ self.head_HO


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheoryArm:
    """wider, more: hidden units and modules of the student over the teacher's.
    draws: codes of each combination, where they are continuous and persistent.
    fit, shots: steps and points by which a test code is inferred, from `starts` starts.
    known: codes of each training combination, by which the decoder is fitted."""

    support: Support
    learner: Literal["modules", "read-out"] = "modules"
    codes: Literal["persistent", "inferred"] = "persistent"
    wider: int = 2
    more: int = 1
    continuous: bool = False
    draws: int = 1
    inputs: int = 16
    hidden: int = 16
    outputs: int = 4
    steps: int = 6000
    points: int = 128
    learning_rate: float = 0.02
    weight_decay: float = 0.0
    tasks: int = 64
    inner: Inner = INNER
    fit: int = 24
    starts: int = 4
    shots: int = 256
    known: int = 4

    def __post_init__(self) -> None:
        if min(self.wider, self.more, self.draws, self.steps, self.starts) < 1:
            raise UserError(
                f"wider {self.wider}, more {self.more}, draws {self.draws}, steps {self.steps}, "
                f"starts {self.starts}: expected at least 1"
            )
        if self.draws > 1 and not self.continuous:
            raise UserError(f"{self.draws} draws of a discrete code are the same: use 1")
        if self.learner == "read-out" and self.codes == "inferred":
            raise UserError("codes 'inferred' with learner 'read-out': expected 'persistent'")


def draw_codes(masks_NM: jax.Array, key: jax.Array, *, continuous: bool) -> jax.Array:
    """Codes with these masks, [N, M].

    Discrete: scaled to norm 1. Continuous: weights in [0.5, 1] (0.5 + half of a draw from the
    simplex, with a slack variable).
    """
    if not continuous:
        return masks_NM / jnp.linalg.norm(masks_NM, axis=-1, keepdims=True)
    weights_NM = jax.random.exponential(key, masks_NM.shape) * masks_NM
    share_NM = weights_NM / (weights_NM.sum(-1, keepdims=True) + 1)
    return (0.5 + 0.5 * share_NM) * masks_NM


def modular_init(key: jax.Array, modules: int, inputs: int, hidden: int, outputs: int) -> Modular:
    """Normal modules of variance 1, and a head of variance 1 / hidden."""
    theta_key, head_key = jax.random.split(key)
    return Modular(
        jax.random.normal(theta_key, (modules, inputs, hidden)),
        jax.random.normal(head_key, (hidden, outputs)) * hidden**-0.5,
    )


def draw_inputs(key: jax.Array, points: int, inputs: int) -> jax.Array:
    """Uniform, of variance 1, [P, I]."""
    return jax.random.uniform(key, (points, inputs), minval=-(3**0.5), maxval=3**0.5)


def half_square(outputs_PO: jax.Array, data: Data) -> jax.Array:
    """The mean of half the squared error."""
    return 0.5 * jnp.mean(jnp.square(outputs_PO - data.y_PO))


@dataclasses.dataclass(frozen=True)
class CodeLearner:
    """A student as method.py takes one: the code is fast and starts from `start_M`, a constant."""

    start_M: jax.Array

    def start(self, shared: Modular) -> jax.Array:
        """The constant."""
        return self.start_M

    def features(self, shared: Modular, x_PI: jax.Array) -> jax.Array:
        """The inputs."""
        return x_PI

    def outputs(self, shared: Modular, fast: jax.Array, features: jax.Array) -> jax.Array:
        """With this code."""
        return shared.outputs(fast, features)

    def init(self, key: jax.Array, inputs: int, outputs: int) -> Modular:
        """Modules as many as the start has, and as many hidden units as inputs."""
        return modular_init(key, len(self.start_M), inputs, inputs, outputs)


class Trained(NamedTuple):
    """shared: what training tasks had in common. loss: half the squared error at the end."""

    shared: Any
    loss: jax.Array


def train(arm: TheoryArm, teacher: Modular, masks_NM: jax.Array, key: jax.Array) -> Trained:
    """By Adam on fresh inputs; the learning rate falls by a cosine to a thousandth."""
    init_key, code_key, key = jax.random.split(key, 3)
    schedule = optax.cosine_decay_schedule(1.0, arm.steps, 1e-3)
    tx = promoting(
        optax.chain(
            optax.adamw(arm.learning_rate, weight_decay=arm.weight_decay),
            optax.scale_by_schedule(schedule),
        )
    )
    masks_NM = jnp.repeat(masks_NM, arm.draws, 0)
    tasks = len(masks_NM)
    fixed_NM = draw_codes(masks_NM, code_key, continuous=arm.continuous)
    shared_key, fast_key = jax.random.split(init_key)
    modules = arm.more * arm.support.modules
    if arm.learner == "modules":
        sizes = (modules, arm.inputs, arm.wider * arm.hidden, arm.outputs)
        shared: Any = modular_init(shared_key, *sizes)
        fast_N = jax.random.normal(fast_key, (tasks, modules)) * modules**-0.5
    else:
        layers = mlp_init(shared_key, list(itertools.pairwise((arm.inputs, *FEATURES))))
        shared = layers
        fast_N = jax.random.normal(fast_key, (tasks, FEATURES[-1] + 1, arm.outputs)) * 0.1
    start_M = fixed_start(arm, code_key)

    def loss(params: tuple[Any, Any], step_key: jax.Array) -> jax.Array:
        shared, fast_N = params
        x_key, code_key, mask_key, support_key = jax.random.split(step_key, 4)
        x_PI = draw_inputs(x_key, arm.points, arm.inputs)
        if arm.codes == "persistent":
            code_NM = fixed_NM
        else:
            row_N = jax.random.randint(mask_key, (arm.tasks,), 0, tasks)
            code_NM = draw_codes(masks_NM[row_N], code_key, continuous=arm.continuous)
            support_PI = draw_inputs(support_key, arm.points, arm.inputs)
            fast_N = jax.lax.stop_gradient(
                jax.vmap(
                    lambda code_M: inferred(arm, teacher, shared, start_M, code_M, support_PI)
                )(code_NM)
            )
        target_NPO = jax.vmap(teacher.outputs, (0, None))(code_NM, x_PI)
        output_NPO = jax.vmap(lambda fast: student_outputs(shared, fast, x_PI))(fast_N)
        return 0.5 * jnp.mean(jnp.square(output_NPO - target_NPO))

    def step(carried: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carried
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(key, number))
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = (shared, fast_N)
    (params, _), losses = jax.lax.scan(
        step, (params, tx.init(params)), jnp.arange(arm.steps, dtype=jnp.int32)
    )
    last = max(1, arm.steps // 100)
    return Trained(params[0], losses[-last:].mean())


def student_outputs(shared: Any, fast: jax.Array, x_PI: jax.Array) -> jax.Array:
    """[P, O], of modules with a code or of features with a read-out."""
    if isinstance(shared, Modular):
        return shared.outputs(fast, x_PI)
    return readout_features(shared, x_PI) @ fast


def readout_features(layers: list[Dense], x_PI: jax.Array) -> jax.Array:
    """Features and a constant, [P, features + 1]."""
    features = jax.nn.relu(mlp(layers, x_PI))
    return jnp.concatenate([features, jnp.ones((len(features), 1))], 1)


def fixed_start(arm: TheoryArm, key: jax.Array) -> jax.Array:
    """The code that inner loops begin with, [M]."""
    return jax.random.normal(jax.random.fold_in(key, 1), (arm.more * arm.support.modules,))


def inferred(
    arm: TheoryArm,
    teacher: Modular,
    shared: Modular,
    start_M: jax.Array,
    code_M: jax.Array,
    x_PI: jax.Array,
) -> jax.Array:
    """The student's code of the teacher's, by the inner loop, [M]."""
    support = Data(x_PI, teacher.outputs(code_M, x_PI), jnp.ones(len(x_PI)))
    return adapt(CodeLearner(start_M), arm.inner, half_square, shared, support)


def fitted(arm: TheoryArm, shared: Any, support: Data, key: jax.Array) -> jax.Array:
    """A test task's fast parameters: of modules the best code of `starts`, by damped Gauss-Newton
    steps (Levenberg and Marquardt); of features a ridge regression."""
    if not isinstance(shared, Modular):
        features = readout_features(shared, support.x_PI)
        gram = features.T @ features + RIDGE * jnp.eye(features.shape[1])
        return jnp.linalg.solve(gram, features.T @ support.y_PO)
    modules = len(shared.theta_MIH)

    def missed(code_M: jax.Array) -> jax.Array:
        return (shared.outputs(code_M, support.x_PI) - support.y_PO).reshape(-1)

    def step(carried: Any, _: None) -> tuple[Any, None]:
        code_M, damping = carried
        residual = missed(code_M)
        slope = jax.jacfwd(missed)(code_M)
        gram = slope.T @ slope
        scale = damping * jnp.trace(gram) / modules + 1e-12
        move_M = jnp.linalg.solve(gram + scale * jnp.eye(modules), slope.T @ residual)
        better = jnp.sum(missed(code_M - move_M) ** 2) < jnp.sum(residual**2)
        damping = jnp.clip(jnp.where(better, damping / 4, damping * 4), 1e-7, 1e3)
        return (jnp.where(better, code_M - move_M, code_M), damping), None

    def one(start_M: jax.Array) -> tuple[jax.Array, jax.Array]:
        code_M = jax.lax.scan(step, (start_M, jnp.float32(0.1)), None, arm.fit)[0][0]
        return code_M, jnp.sum(missed(code_M) ** 2)

    starts = 0.5 * jax.random.normal(key, (arm.starts, modules))
    codes, losses = jax.vmap(one)(starts)
    return codes[jnp.argmin(losses)]


class Tested(NamedTuple):
    """error_N: squared error over the mean square of the target, on new inputs."""

    code_NM: jax.Array
    fast_N: jax.Array
    error_N: jax.Array


def on_test_tasks(
    arm: TheoryArm, teacher: Modular, shared: Any, masks_NM: jax.Array, key: jax.Array
) -> Tested:
    """Tasks with these masks and continuous codes."""
    code_key, fit_key, key = jax.random.split(key, 3)
    code_NM = draw_codes(masks_NM, code_key, continuous=True)
    support_PI = draw_inputs(jax.random.fold_in(key, 0), arm.shots, arm.inputs)
    query_PI = draw_inputs(jax.random.fold_in(key, 1), 4096, arm.inputs)

    def one(code_M: jax.Array, one_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        support = Data(support_PI, teacher.outputs(code_M, support_PI), jnp.ones(arm.shots))
        fast = fitted(arm, shared, support, one_key)
        target_PO = teacher.outputs(code_M, query_PI)
        missed = jnp.mean(jnp.square(student_outputs(shared, fast, query_PI) - target_PO))
        return fast, missed / jnp.mean(jnp.square(target_PO))

    fast_N, error_N = jax.vmap(one)(code_NM, jax.random.split(fit_key, len(code_NM)))
    return Tested(code_NM, fast_N, error_N)


def decoder(code_NM: jax.Array, fast_NM: jax.Array) -> jax.Array:
    """F, by ridge regression of the teacher's codes on the student's: code = fast F, [M, M]."""
    gram = fast_NM.T @ fast_NM + RIDGE * jnp.eye(fast_NM.shape[1])
    return jnp.linalg.solve(gram, fast_NM.T @ code_NM)


def decoded(code_NM: jax.Array, fast_NM: jax.Array, f_MM: jax.Array) -> jax.Array:
    """R^2 of decoded codes: 1 - squared error / squared distance from the mean."""
    missed = jnp.sum(jnp.square(fast_NM @ f_MM - code_NM))
    spread = jnp.sum(jnp.square(code_NM - code_NM.mean(0, keepdims=True)))
    return 1 - missed / spread


def alignment(teacher: Modular, student: Modular, f_MM: jax.Array) -> jax.Array:
    """Of each unit of the teacher, with the student's unit that is most alike, [G].

    The absolute cosine of a unit's slices in all modules, stacked, after the student's modules are
    mapped to the teacher's by the pseudo-inverse of the decoder. 1.0 everywhere: identified.
    """
    mapped_MIH = jnp.einsum("tm,mih->tih", jnp.linalg.pinv(f_MM), student.theta_MIH)
    of_teacher, of_student = (
        theta.reshape(-1, theta.shape[-1]) for theta in (teacher.theta_MIH, mapped_MIH)
    )
    of_teacher, of_student = (
        units / jnp.maximum(jnp.linalg.norm(units, axis=0, keepdims=True), 1e-12)
        for units in (of_teacher, of_student)
    )
    return jnp.abs(of_teacher.T @ of_student).max(1)


def measured(
    arm: TheoryArm, masks: dict[str, jax.Array], seed: jax.Array
) -> dict[str, dict[str, jax.Array] | jax.Array]:
    """Train and test one seed. masks: `train`, and by name what is tested beside it, [C, M].

    Returns by name the `error`; of modules `decoding` (R^2 by name), `alignment` and
    `least_alignment` over the teacher's units; `loss` of training.
    """
    key = jax.random.key(seed)
    teacher_key, train_key, test_key = jax.random.split(key, 3)
    teacher = modular_init(teacher_key, arm.support.modules, arm.inputs, arm.hidden, arm.outputs)
    trained = train(arm, teacher, masks["train"], train_key)
    known_NM = jnp.repeat(masks["train"], arm.known, 0)
    tested = on_test_tasks(
        arm, teacher, trained.shared, jnp.concatenate([*masks.values(), known_NM]), test_key
    )
    ends = np.cumsum([len(of_name) for of_name in masks.values()])[:-1].tolist()
    ends.append(len(tested.error_N) - len(known_NM))
    tests = dict(zip((*masks, "known"), _split(tested, ends), strict=True))
    known = tests.pop("known")
    numbers: dict[str, Any] = {
        "loss": trained.loss,
        "error": {name: one.error_N.mean() for name, one in tests.items()},
    }
    if arm.learner == "modules":
        f_MM = decoder(known.code_NM, known.fast_N)
        aligned_G = alignment(teacher, trained.shared, f_MM)
        numbers |= {
            "decoding": {
                name: decoded(one.code_NM, one.fast_N, f_MM) for name, one in tests.items()
            },
            "alignment": aligned_G.mean(),
            "least_alignment": aligned_G.min(),
        }
    return numbers


def _split(tested: Tested, ends: list[int]) -> list[Tested]:
    """Parts of the tasks, which end there."""
    first, parts = 0, []
    for end in [*ends, len(tested.error_N)]:
        parts.append(Tested(*(leaf[first:end] for leaf in tested)))
        first = end
    return parts
