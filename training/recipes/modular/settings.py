# SPDX-License-Identifier: Apache-2.0
"""Learners with their inner and outer settings: the authors', and small ones that run here.

    setting = hyperteacher_settings(modules=8)["linear"]
    arm = setting.arm(family, steps=200_000, tasks=128)

The authors' sizes and rates are those of their code's configurations. The small ones keep the kinds
of learners, the templates of a module and the inner rates of the hypernetworks; ANIL takes fewer
steps, at a higher rate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from training.recipes.modular.few_shot import FewShotArm
from training.recipes.modular.hypernetworks import Anil, Hypernetwork, Maml
from training.recipes.modular.method import Inner

LEARNERS = ("linear", "non-linear", "ANIL", "MAML")
HYPERNETWORKS = ("linear", "non-linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """clip: of the global norm of the outer gradient."""

    learner: Any
    inner: Inner
    outer_rate: float
    clip: float = 2.0
    outer_decay: float = 1e-2

    def arm(self, family: Any, *, steps: int, tasks: int, **tests: Any) -> FewShotArm:
        """On this family."""
        return FewShotArm(
            family=family,
            learner=self.learner,
            inner=self.inner,
            outer_rate=self.outer_rate,
            clip=self.clip,
            outer_decay=self.outer_decay,
            steps=steps,
            tasks=tasks,
            **tests,
        )


def hypernetwork(
    width: int, depth: int, templates: int, rate: float, outer: float, **changes: Any
) -> Setting:
    """Ten inner steps. changes: linear, and fields of Setting."""
    linear = changes.pop("linear", True)
    return Setting(
        learner=Hypernetwork(width=width, depth=depth, templates=templates, linear=linear),
        inner=Inner(steps=10, learning_rate=rate),
        outer_rate=outer,
        **changes,
    )


def monolith(
    learner: Anil | Maml, rate: float, steps: int, outer: float, **changes: Any
) -> Setting:
    """ANIL or MAML. changes: batch of the inner steps, and fields of Setting."""
    inner = Inner(steps=steps, learning_rate=rate, batch=changes.pop("batch", None))
    return Setting(learner=learner, inner=inner, outer_rate=outer, **changes)


def hyperteacher_settings(modules: int, *, small: bool = False) -> dict[str, Setting]:
    """Four templates for each module."""
    templates, monolithic = 4 * modules, {"outer_decay": 1e-4}
    if small:
        return {
            "linear": hypernetwork(16, 3, templates, 0.3, 3e-3, clip=1.0),
            "non-linear": hypernetwork(16, 3, templates, 0.3, 3e-3, clip=1.0, linear=False),
            "ANIL": monolith(Anil(width=64, depth=3), 0.1, 20, 1e-3, **monolithic),
            "MAML": monolith(Maml(width=24, depth=3), 0.01, 10, 1e-3, **monolithic),
        }
    anil = monolith(Anil(width=512, depth=3), 0.03, 100, 1e-3, batch=64, **monolithic)
    return {
        "linear": hypernetwork(128, 3, templates, 0.3, 1e-3, clip=1.0),
        "non-linear": hypernetwork(128, 3, templates, 0.3, 3e-3, clip=1.0, linear=False),
        "ANIL": anil,
        "MAML": monolith(Maml(width=384, depth=3), 0.01, 10, 1e-3, **monolithic),
    }


def preference_settings(*, small: bool = False) -> dict[str, Setting]:
    """Four templates for each module, of which the authors have 8 and the small ones 6."""
    if small:
        return {
            "linear": hypernetwork(16, 2, 24, 0.1, 1e-3, clip=1.0),
            "non-linear": hypernetwork(16, 2, 24, 0.1, 1e-3, linear=False),
            "ANIL": monolith(Anil(width=64, depth=3), 0.03, 20, 1e-3),
            "MAML": monolith(Maml(width=16, depth=2), 0.01, 10, 1e-3),
        }
    return {
        "linear": hypernetwork(64, 3, 32, 0.1, 3e-4, clip=1.0),
        "non-linear": hypernetwork(64, 2, 32, 0.1, 3e-4, linear=False),
        "ANIL": monolith(Anil(width=512, depth=4), 0.01, 100, 3e-4, batch=64),
        "MAML": monolith(Maml(width=368, depth=3), 0.01, 10, 1e-3),
    }


def goal_settings(*, small: bool = False) -> dict[str, Setting]:
    """8 templates."""
    if small:
        return {
            "linear": hypernetwork(16, 2, 8, 0.3, 3e-3),
            "non-linear": hypernetwork(16, 2, 8, 0.1, 1e-3, linear=False),
            "ANIL": monolith(Anil(width=64, depth=2), 0.03, 20, 1e-3),
            "MAML": monolith(Maml(width=16, depth=2), 0.01, 10, 1e-3, clip=1.0),
        }
    return {
        "linear": hypernetwork(32, 2, 8, 0.3, 3e-3),
        "non-linear": hypernetwork(32, 2, 8, 0.1, 1e-3, linear=False),
        "ANIL": monolith(Anil(width=512, depth=2), 0.01, 100, 1e-3),
        "MAML": monolith(Maml(width=384, depth=2), 0.01, 10, 1e-3, clip=1.0),
    }


def chosen(settings: Mapping[str, Setting], names: tuple[str, ...]) -> dict[str, Setting]:
    """Those with these names."""
    return {name: settings[name] for name in names}
