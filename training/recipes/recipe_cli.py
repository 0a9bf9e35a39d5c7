# SPDX-License-Identifier: Apache-2.0
"""`griffin recipe`: the companion papers' experiments, found by their folders."""

import dataclasses
import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.options import Ray, RayOptions
from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.experiment import PresetOptions

EXAMPLES = """Run an experiment of a companion paper, or all that its README reports.

Results go to OUT/NAME/EXPERIMENT: result.json, plots, and the finished cells (one arm, one seed),
so that the same command goes on where it was stopped. `griffin report OUT/NAME/*` makes one page.

examples:
  griffin recipe --list
  griffin recipe plasticity --list
  griffin recipe plasticity adam --seeds 3
  griffin recipe plasticity --study
  griffin recipe plasticity --study --ray auto       its cells spread over a Ray cluster
  griffin recipe sparc --query "a red lemon" photo.png
  griffin recipe pfo --preset mujoco --environments Hopper-v5 --interventions none 'PFO all'
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeArguments:
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Of a recipe."""
    experiment: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")] = (
        None
    )
    """Of that recipe, the one to run."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Name the recipes, or the experiments of one."""
    study: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run every experiment of the recipe."""
    preset: str | None = None
    """Of that recipe, the paper's own runs by this name, or those of them that the next four
    options name."""
    environments: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """By default all of the paper's, and so are the next three."""
    epochs: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = ()
    """On each rollout."""
    interventions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Of the paper's, and `none`."""
    steps: int | None = None
    """Of a run, of all its environments together."""
    seeds: int | None = None
    """Of each arm; by default as the experiment says."""
    out: Path = Path("docs/results")
    """The folder of all recipes' results."""
    cluster: Ray = dataclasses.field(default_factory=RayOptions)
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as one last line of JSON."""

    def check(self) -> None:
        """Raises UserError: what to do is not said, or said twice."""
        if self.name is None and not self.list:
            raise UserError("no recipe is named: `griffin recipe --list` lists them")
        wanted = [self.list, self.study, self.experiment is not None, self.preset is not None]
        if sum(wanted) != 1:
            raise UserError(
                "expected one of --list, --study, --preset and the name of an experiment; `griffin "
                f"recipe {self.name} --list` lists them"
            )
        if self.preset is None and self.asked:
            raise UserError(
                f"{', '.join(f'--{name}' for name in self.asked)} choose runs of a preset: give "
                "--preset NAME"
            )
        if self.list and self.seeds is not None:
            raise UserError("--seeds has no effect with --list: leave one of them out")
        if self.list and self.cluster.ray is not None:
            raise UserError("--ray has no effect with --list: leave one of them out")
        if self.study and self.json:
            raise UserError("--json prints one result: name an experiment in place of --study")

    @property
    def asked(self) -> dict[str, Any]:
        """What is chosen of a preset."""
        named = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(PresetOptions)
        }
        return {name: value for name, value in named.items() if value not in ((), None)}


def main(argv: Sequence[str]) -> None:
    """List or run. A recipe may have `commands` of its own, which its flags call.

    Raises UserError: there is no such recipe or experiment; see experiment.py."""
    commands = _commands(argv[0]) if argv and argv[0] in recipes() else None
    if commands is not None and any(flag.partition("=")[0] in commands.FLAGS for flag in argv):
        commands.main(argv[1:])
        return
    run(tyro.cli(RecipeArguments, prog="griffin recipe", description=EXAMPLES, args=argv))


def run(arguments: RecipeArguments) -> None:
    """List or run."""
    arguments.check()
    if arguments.name is None:
        _print_list({name: _summary(name) for name in recipes()}, arguments.json)
        return
    if arguments.name not in recipes():
        raise UserError(
            f"{arguments.name!r} is no recipe{did_you_mean(arguments.name, recipes())}: they are "
            f"{', '.join(recipes())}"
        )
    module = importlib.import_module(f"training.recipes.{arguments.name}.experiments")
    experiments = {one.name: one for one in module.EXPERIMENTS}
    presets = {one.name: one for one in getattr(module, "PRESETS", ())}
    if arguments.list:
        lines = {
            one.name: f"{one.question} ({one.cost}, {one.seeds} seeds)"
            for one in experiments.values()
        }
        lines |= {f"--preset {one.name}": one.what for one in presets.values()}
        _print_list(lines, arguments.json)
        return
    if arguments.experiment is not None and arguments.experiment not in experiments:
        raise UserError(
            f"{arguments.experiment!r} is no experiment of {arguments.name}"
            f"{did_you_mean(arguments.experiment, experiments)}: they are {', '.join(experiments)}"
        )
    options = None
    if arguments.preset is not None:
        if arguments.preset not in presets:
            raise UserError(
                f"{arguments.preset!r} is no preset of {arguments.name}"
                f"{did_you_mean(arguments.preset, presets)}: they are "
                f"{', '.join(presets) or 'none'}"
            )
        preset, options = presets[arguments.preset], presets[arguments.preset].options
        options = dataclasses.replace(options, **arguments.asked)
        experiments = {preset.name: preset.experiment(options)}
    from eval.results import show
    from training.recipes.experiment import run_experiment
    from training.recipes.ray_cells import OnCluster, Origin

    chosen = experiments if arguments.experiment is None else [arguments.experiment]
    for name in chosen:
        folder, measured = arguments.out / arguments.name / name, None
        if arguments.cluster.ray is not None:
            measured = OnCluster(Origin(arguments.name, name, options), arguments.cluster).measured
        record = run_experiment(
            arguments.name, experiments[name], folder, seeds=arguments.seeds, measured=measured
        )
        print(f"{name}: {record['result']['verdict']}")
        show(record, as_json=arguments.json, folder=folder)


def recipes() -> list[str]:
    """The folders beside this file that have experiments."""
    import training.recipes as package

    return sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if module.ispkg
        and importlib.util.find_spec(f"{package.__name__}.{module.name}.experiments")
    )


def _commands(recipe: str) -> Any:
    """The module of a recipe's own; None where it has none."""
    name = f"training.recipes.{recipe}.commands"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        return None


def _summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    docstring = importlib.import_module(f"training.recipes.{name}").__doc__
    assert docstring is not None
    return docstring.splitlines()[0]


def _print_list(lines: dict[str, str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(lines))
        return
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
