# SPDX-License-Identifier: Apache-2.0
"""RoboticSequence (2402.02868, section B.3): a robot solves tasks one after another, and an episode
goes on as long as each is solved within T steps.

    with RoboticSequence([metaworld_task(name) for name in STAGES], seed=0) as sequence:
        observation = sequence.begin()             # begin(2) starts at the third stage: FAR
        stepped = sequence.step(action_A)
        if stepped.terminated:                     # the stage is over, solved or not
            observation = sequence.begin(stepped.following or 0)

A stage ends when its task says so or after T steps, and both ends are terminal. Its reward is the
task's, and at success r' = 1.5 r (T - t), t the steps before this one: what standing still at the
goal would have brought. The agent sees [stage, t / T, the robot's D numbers]; networks take the
stage for a choice of their head alone (stage_heads.py). The robot's numbers, which differ by
centimetres where it matters, are standardised by what the tasks' experts meet (`scale_of`).

Tasks are those of Meta-World 3 (`pip install 'griffin-lm[robotics]'`), whose goals are seen. The
paper used an older generation of the same tasks, with other observations (12 numbers) and rewards,
so that numbers are not comparable, only their order is.

Legend: D numbers of a task's observation, A dimensions of an action, T steps of a stage.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.rl.distributions import TanhNormal

EXTRA = "pip install 'griffin-lm[robotics]'"
STAGES = ("hammer-v3", "push-v3", "peg-unplug-side-v3", "push-wall-v3")
LIMIT = 200  # T
BONUS = 1.5
MOST_SEED = 2**31
LEAST_STD, MOST_SEEN = 1e-2, 10.0  # a number that hardly changes; the largest standardised one

Scale = tuple[Any, Any]
"""Mean and deviation, [D] each, of NumPy or of JAX."""


class TaskStep(NamedTuple):
    """What a step of a task gives."""

    observation_D: np.ndarray
    reward: float
    success: bool


class Task(Protocol):
    """One stage's environment. The same seed and actions give the same episode, whatever was
    before: a run that goes on relies on that."""

    numbers: int
    """D."""
    dimensions: int
    """A; each within [-1, 1]."""

    def begin(self, seed: int) -> np.ndarray:
        """An episode's first observation, [D]."""
        ...

    def step(self, action_A: np.ndarray) -> TaskStep:
        """One step."""
        ...

    def expert(self, observation_D: np.ndarray) -> np.ndarray:
        """What a policy that solves the task would do, [A]."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class SequenceStep(NamedTuple):
    """observation: where the step has led. terminated: the stage is over. following: the stage that
    comes after it; None while it goes on, and where the episode is over. solved: how many stages
    the episode has solved, of those before the start too."""

    observation: np.ndarray
    reward: float
    terminated: bool
    success: bool
    following: int | None
    solved: int


class RoboticSequence:
    """See the module. Raises UserError: the tasks have no observations or actions in common."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        seed: int,
        limit: int = LIMIT,
        scale: Scale | None = None,
    ):
        shapes = {(task.numbers, task.dimensions) for task in tasks}
        if len(shapes) != 1:
            raise UserError(f"tasks of (observation, action) {sorted(shapes)}: expected one kind")
        ((numbers, dimensions),) = shapes
        self.tasks, self.limit = list(tasks), limit
        self.observation_shape = (1, 1, 2 + numbers)
        self.policy = TanhNormal(low=(-1.0,) * dimensions, high=(1.0,) * dimensions)
        self.scale = scale or (np.zeros(numbers), np.ones(numbers))
        self._random = np.random.default_rng(seed)
        self._stage, self._seed, self._actions = 0, 0, []
        self._observation_D = np.zeros(numbers)

    def __enter__(self) -> "RoboticSequence":
        return self

    def __exit__(self, *unused: object) -> None:
        for task in self.tasks:
            task.close()

    def begin(self, stage: int = 0, *, seed: int | None = None) -> np.ndarray:
        """Start of a stage, of its own seed or the next of the sequence's."""
        if not 0 <= stage < len(self.tasks):
            raise UserError(f"stage {stage}: expected 0 to {len(self.tasks) - 1}")
        self._stage, self._actions = stage, []
        self._seed = int(self._random.integers(MOST_SEED)) if seed is None else seed
        self._observation_D = self.tasks[stage].begin(self._seed)
        return self.observation

    def step(self, action_A: np.ndarray) -> SequenceStep:
        """One step of the running stage."""
        elapsed = len(self._actions)
        taken = self._taken(action_A)
        terminated = taken.success or elapsed + 1 == self.limit
        solved = self._stage + taken.success
        goes_on = taken.success and solved < len(self.tasks)
        return SequenceStep(
            self.observation,
            taken.reward * (BONUS * (self.limit - elapsed) if taken.success else 1.0),
            terminated,
            taken.success,
            solved if goes_on else None,
            solved,
        )

    @property
    def observation(self) -> np.ndarray:
        """What the agent sees now, float32 [1, 1, 2 + D]."""
        (mean_D, std_D), clock = self.scale, len(self._actions) / self.limit
        robot_D = np.clip((self._observation_D - mean_D) / std_D, -MOST_SEEN, MOST_SEEN)
        seen = np.concatenate([[self._stage, clock], robot_D])
        return seen.astype(np.float32)[None, None]

    def expert(self) -> np.ndarray:
        """What the running task's expert would do now, [A]."""
        return self.tasks[self._stage].expert(self._observation_D)

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        return {
            "random": self._random.bit_generator.state,
            "stage": self._stage,
            "seed": self._seed,
            "actions": [action_A.tolist() for action_A in self._actions],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on where a snapshot was taken: the stage is begun anew, and its steps are taken again,
        since a simulator has more state than can be read from it."""
        self.begin(kept["stage"], seed=kept["seed"])
        for action_A in kept["actions"]:
            self._taken(np.asarray(action_A, np.float32))
        self._random.bit_generator.state = kept["random"]

    def _taken(self, action_A: np.ndarray) -> TaskStep:
        action_A = np.array(action_A, np.float32)  # as a snapshot keeps it
        taken = self.tasks[self._stage].step(action_A)
        self._actions.append(action_A)
        self._observation_D = taken.observation_D
        return taken


def scale_of(tasks: Sequence[Task], *, episodes: int, limit: int = LIMIT) -> Scale:
    """Of what the experts meet, each stage alike."""
    means, squares = [], []
    for task in tasks:
        met = []
        for episode in range(episodes):
            met.append(task.begin(MOST_SEED - 1 - episode))
            for _ in range(limit):
                observation_D, _, success = task.step(task.expert(met[-1]))
                met.append(observation_D)
                if success:
                    break
        means.append(np.mean(met, 0))
        squares.append(np.mean(np.square(met), 0))
    mean_D = np.mean(means, 0)
    variance_D = np.maximum(np.mean(squares, 0) - np.square(mean_D), 0)
    return mean_D, np.maximum(np.sqrt(variance_D), LEAST_STD)


class MetaworldTask:
    """A task of Meta-World with its scripted expert."""

    def __init__(self, inner: Any, policy: Any):
        # Starts and goals are drawn anew at each reset, by the seed.
        inner._freeze_rand_vec, inner.seeded_rand_vec = False, True
        self.inner, self._policy = inner, policy
        self.numbers = int(inner.observation_space.shape[0])
        self.dimensions = int(inner.action_space.shape[0])

    def begin(self, seed: int) -> np.ndarray:
        self.inner.seed(seed)
        return self.inner.reset()[0]

    def step(self, action_A: np.ndarray) -> TaskStep:
        observation_D, reward, _, _, info = self.inner.step(np.asarray(action_A, np.float32))
        return TaskStep(observation_D, float(reward), bool(info["success"]))

    def expert(self, observation_D: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Constant(s) may be too high"
            return np.clip(self._policy.get_action(observation_D), -1, 1)

    def close(self) -> None:
        self.inner.close()


def metaworld_task(name: str) -> MetaworldTask:
    """A task by its name.

    Raises UserError: Meta-World is not installed; it has no task of that name.
    """
    try:
        known: Any = importlib.import_module("metaworld.env_dict")
        policies: Any = importlib.import_module("metaworld.policies")
    except ImportError as error:
        raise UserError(f"{name}: Meta-World is not installed ({error}): {EXTRA}") from None
    experts = policies.ENV_POLICY_MAP
    if name not in experts:
        raise UserError(
            f"{name!r} is no task of Meta-World{did_you_mean(name, experts)}: they are "
            f"{', '.join(experts)}"
        )
    kind = known.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-goal-observable"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bounds of a Box that are equal, and their precision
        return MetaworldTask(kind(seed=0), experts[name]())
