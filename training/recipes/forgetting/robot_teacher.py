# SPDX-License-Identifier: Apache-2.0
"""A teacher of RoboticSequence: a policy that is good on the last stages (FAR) and has never seen
the first ones (CLOSE), in minutes.

    teacher = taught(arm, seed, folder, make=metaworld_task)
    teacher.actor, teacher.critics, teacher.kept           # 10,000 transitions of its own, on FAR
    beside = holding(arm, agent, teacher)                  # EWC's or BC's term, or None

The paper trains its teacher by SAC; this one is cloned from Meta-World's scripted experts. In the
first round an expert acts, with the noise that the clone will have; in later ones the clone itself
does (DAgger). Each state is labelled with the expert's action, and the loss is KL(N(u, s) || pi), u
the label before the tanh. A cloned policy has no critic, so one is fitted to it on the transitions
that are kept, the actor as it is (section 2).

Legend: N transitions, M batch, A dimensions of an action, O outputs of the actor, U updates.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.dynamic.retention import distance, normal_fisher, normal_kl
from training.recipes.forgetting.robots import LIMIT, RoboticSequence, Scale, Task, scale_of
from training.recipes.forgetting.stage_heads import StagesConfig, trunk
from training.recipes.rl.sac import SAC, SACChoices, SACState, Transition
from training.recipes.rl.saved import Saved

SCRATCH, FINE_TUNING = "scratch", "fine-tuning"
Method = Literal["scratch", "fine-tuning", "EWC", "BC", "EM"]
NEAREST = 0.97  # a label's largest size, whose inverse of the tanh is 2.1
AT_ONCE = 100  # updates of a compiled call
SCALED = 5  # episodes of each stage's expert, for the scale of observations

Make = Callable[[str], Task]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teaching:
    """Of a teacher. episodes: of each FAR stage in a round. kept: transitions of its own. critic:
    updates of its critics. fisher: states that the Fisher is a mean over."""

    rounds: int = 4
    episodes: int = 25
    updates: int = 8_000
    batch: int = 256
    learning_rate: float = 1e-3
    scale: float = 0.3
    kept: int = 10_000
    critic: int = 10_000
    fisher: int = 2_560


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotArm:
    """One training. new: the first stages, so many, which the teacher does not know. weight: of EWC
    and BC. begin: transitions before the first update. measured: how many times, evenly, after the
    start. starts: episodes of each stage at a measurement. SAC's numbers are table 3's."""

    stages: tuple[str, ...]
    new: int
    method: Method = FINE_TUNING
    weight: float = 0.0
    steps: int = 100_000
    measured: int = 20
    starts: int = 10
    limit: int = LIMIT
    widths: tuple[int, ...] = (256, 256, 256, 256)
    batch: int = 128
    buffer: int = 100_000
    begin: int = 5_000
    learning_rate: float = 1e-3
    teaching: Teaching = Teaching()

    @property
    def protected(self) -> int:
        """Rows of the replay buffer that the teacher's transitions keep."""
        return self.teaching.kept if self.method == "EM" else 0

    @property
    def far(self) -> tuple[int, ...]:
        """The stages that the teacher knows."""
        return tuple(range(self.new, len(self.stages)))

    def choices(self) -> SACChoices:
        """Of SAC."""
        network = StagesConfig(stages=len(self.stages), widths=self.widths)
        return SACChoices(
            actor=network,
            critic=network,
            buffer=self.buffer,
            begin=self.begin + self.protected,
            batch=self.batch,
            learning_rate=self.learning_rate,
        )

    def lesson(self) -> dict[str, Any]:
        """All that a teacher depends on."""
        return {
            "stages": self.stages,
            "new": self.new,
            "limit": self.limit,
            "widths": self.widths,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            **dataclasses.asdict(self.teaching),
        }


class Teacher(NamedTuple):
    """scale: of observations, which all arms see alike. kept: transitions [N, ...] of its own on
    FAR stages. outputs_NO: its actor's on their states."""

    scale: Scale
    actor: Any
    critics: Any
    kept: Transition
    outputs_NO: jax.Array


def taught(arm: RobotArm, seed: int, folder: Path, *, make: Make) -> Teacher:
    """The teacher of an arm and a seed: read from the folder where it is there, else made."""
    tasks = [make(name) for name in arm.stages]
    with RoboticSequence(tasks, seed=seed + 1_000_000, limit=arm.limit) as sequence:
        choices = dataclasses.replace(arm.choices(), buffer=1)  # nothing goes through it
        agent = SAC(choices, sequence.observation_shape, sequence.policy)
        saved = teacher_file(arm, seed, folder)
        if saved.path.is_file():
            return as_host(saved.taken(_empty(arm, agent, tasks[0].numbers))[0])
        sequence.scale = scale_of(tasks, episodes=SCALED, limit=arm.limit)
        key = jax.random.key(seed + 1_000_000)
        state = agent.start(jax.random.fold_in(key, 0))
        actor = clone(arm, agent, state.actor, sequence, jax.random.fold_in(key, 1))
        kept = transitions(arm, agent, actor, sequence, jax.random.fold_in(key, 2))
        state = judged(arm, agent, state._replace(actor=actor), kept, jax.random.fold_in(key, 3))
        outputs_NO = agent.actor.apply(actor, {}, kept.observation).outputs_BO
        teacher = as_host(Teacher(sequence.scale, actor, state.critics, kept, outputs_NO))
        saved.keep(teacher, {}, at_once=True)
        return teacher


def as_host(teacher: Teacher) -> Teacher:
    """The same whether it was read or made: float32, and the scale in NumPy's arrays."""
    mean_D, std_D = (np.asarray(part, np.float32) for part in teacher.scale)
    return teacher._replace(scale=(mean_D, std_D))


def teacher_file(arm: RobotArm, seed: int, folder: Path) -> Saved:
    """Where it is kept."""
    return Saved(folder, ["teacher", arm.lesson(), seed])


def _empty(arm: RobotArm, agent: SAC, numbers: int) -> Any:
    """A teacher's shapes."""

    def of(key: jax.Array) -> Teacher:
        state = agent.start(key)
        count = arm.teaching.kept
        kept = jax.tree.map(lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype), state.buffer.rows)
        scale = jnp.zeros(numbers), jnp.zeros(numbers)
        outputs_NO = jnp.zeros((count, agent.policy.outputs))
        return Teacher(scale, state.actor, state.critics, kept, outputs_NO)

    return jax.eval_shape(of, jax.random.key(0))


def clone(arm: RobotArm, agent: SAC, actor: Any, sequence: RoboticSequence, key: jax.Array) -> Any:
    """An actor that does on FAR stages what their experts do."""
    teaching, random = arm.teaching, np.random.default_rng(int(jax.random.bits(key)))
    act, tx = jax.jit(agent.act), agent.tx

    def loss(actor: Any, observation_M: jax.Array, label_MA: jax.Array) -> jax.Array:
        label = label_MA, jnp.full_like(label_MA, teaching.scale)
        return jnp.mean(normal_kl(label, _normal(agent, actor, observation_M)))

    @jax.jit
    def train(
        actor: Any, opt_state: Any, seen_UM: jax.Array, label_UM: jax.Array, rate: jax.Array
    ) -> Any:
        def once(carried: Any, batch: Any) -> Any:
            actor, opt_state = carried
            grads = jax.grad(loss)(actor, *batch)
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = tx.update(grads, opt_state, actor)
            return (jax.tree.map(lambda x, u: x - rate * u, actor, updates), opt_state), None

        return jax.lax.scan(once, (actor, opt_state), (seen_UM, label_UM))[0]

    seen, labels, opt_state = [], [], tx.init(actor)
    calls = -(-teaching.updates // (teaching.rounds * AT_ONCE))
    for number in range(teaching.rounds):
        for episode in range(teaching.episodes * len(arm.far)):
            observation, terminated = sequence.begin(arm.far[episode % len(arm.far)]), False
            while not terminated:
                label_A = np.arctanh(np.clip(sequence.expert(), -NEAREST, NEAREST))
                seen.append(observation)
                labels.append(label_A.astype(np.float32))
                if number:
                    step_key = jax.random.fold_in(key, len(seen))
                    drawn_A = np.asarray(act(actor, observation[None], step_key))[0]
                else:
                    drawn_A = label_A + teaching.scale * random.normal(size=label_A.shape)
                stepped = sequence.step(np.tanh(drawn_A))
                observation, terminated = stepped.observation, stepped.terminated
        seen_N, label_NA = np.stack(seen), np.stack(labels)
        for call in range(calls):
            rows_UM = random.integers(len(seen_N), size=(AT_ONCE, teaching.batch))
            gone = (number * calls + call) / (teaching.rounds * calls)
            rate = np.float32(teaching.learning_rate * (1 - gone))
            actor, opt_state = train(actor, opt_state, seen_N[rows_UM], label_NA[rows_UM], rate)
    return actor


def transitions(
    arm: RobotArm, agent: SAC, actor: Any, sequence: RoboticSequence, key: jax.Array
) -> Transition:
    """What the actor meets on FAR stages, in turn, [N, ...]."""
    act = jax.jit(agent.act)

    def rows() -> Iterator[Transition]:
        turn = 0
        while True:
            observation, terminated = sequence.begin(arm.far[turn % len(arm.far)]), False
            turn += 1
            while not terminated:
                step_key = jax.random.fold_in(key, len(kept))
                drawn_A = np.asarray(act(actor, observation[None], step_key))[0]
                stepped = sequence.step(np.tanh(drawn_A))
                terminated = stepped.terminated
                yield Transition(
                    observation,
                    drawn_A,
                    np.float32(stepped.reward),
                    np.bool_(terminated),
                    stepped.observation,
                )
                observation = stepped.observation

    kept: list[Transition] = []
    for row in rows():
        kept.append(row)
        if len(kept) == arm.teaching.kept:
            break
    return jax.tree.map(lambda *of: jnp.asarray(np.stack(of)), *kept)


def judged(
    arm: RobotArm, agent: SAC, state: SACState, kept: Transition, key: jax.Array
) -> SACState:
    """With critics of the actor, from these transitions."""

    @jax.jit
    def train(state: SACState, kept: Transition, key: jax.Array) -> SACState:
        def once(state: SACState, key: jax.Array) -> tuple[SACState, None]:
            rows_key, target_key = jax.random.split(key)
            rows_M = jax.random.randint(rows_key, (arm.batch,), 0, arm.teaching.kept)
            batch = jax.tree.map(lambda x: x[rows_M], kept)
            return agent.judge(state, batch, target_key)[0], None

        return jax.lax.scan(once, state, jax.random.split(key, AT_ONCE))[0]

    for number in range(-(-arm.teaching.critic // AT_ONCE)):
        state = train(state, kept, jax.random.fold_in(key, number))
    return state


def holding(
    arm: RobotArm, agent: SAC, teacher: Teacher
) -> Callable[[Any, jax.Array], jax.Array] | None:
    """What is added to the actor's loss, (actor, key) -> a number; None where nothing is."""
    if arm.method == "EWC":
        start, fisher = trunk(teacher.actor), fisher_of(arm, agent, teacher)
        return lambda actor, key: arm.weight * distance(trunk(actor), start, fisher)
    if arm.method == "BC":

        def cloned(actor: Any, key: jax.Array) -> jax.Array:
            rows_M = jax.random.randint(key, (arm.batch,), 0, arm.teaching.kept)
            return arm.weight * jnp.mean(divergence(agent, teacher, actor, rows_M))

        return cloned
    return None


def divergence(agent: SAC, teacher: Teacher, actor: Any, rows_M: Any) -> jax.Array:
    """KL(teacher || actor) on those of the kept states, [M]."""
    outputs_MO = agent.actor.apply(actor, {}, teacher.kept.observation[rows_M]).outputs_BO
    return agent.policy.kl(teacher.outputs_NO[rows_M], outputs_MO)


def fisher_of(arm: RobotArm, agent: SAC, teacher: Teacher) -> Any:
    """Of the teacher's trunk, heads excluded, on states that are kept."""
    rows_N = np.linspace(0, arm.teaching.kept - 1, arm.teaching.fisher).astype(int)

    def policy_of(shared: Any, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        loc_1A, scale_1A = _normal(agent, {**teacher.actor, **shared}, observation[None])
        return loc_1A[0], scale_1A[0]

    states_N = teacher.kept.observation[rows_N]
    return jax.jit(lambda shared: normal_fisher(policy_of, shared, states_N))(trunk(teacher.actor))


def _normal(agent: SAC, actor: Any, observation_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Location and scale, [B, A] each."""
    return agent.policy.split(agent.actor.apply(actor, {}, observation_B).outputs_BO)
