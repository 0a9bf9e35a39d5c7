# SPDX-License-Identifier: Apache-2.0
"""Griffin, Hawk and the MQA Transformer of one size on the same tokens, in one plot.

    python -m training.compare --out docs/pictures/pretraining.svg     an hour on two cores

Three models of 3.3 million parameters read Shakespeare's plays for 1,000 steps of 4,096 tokens. A
run that was stopped goes on. The plot needs matplotlib. What came out stands in docs/training.md.
"""

import dataclasses
from pathlib import Path

import tyro

from checkpoints.load import load_checkpoint
from recurrentgemma.counts import parameter_count
from recurrentgemma.griffin import Griffin
from training import run_folder
from training.build import held_out_bits_per_byte
from training.configs import TrainConfig
from training.inputs import open_inputs
from training.launch import Launch
from training.loop import train
from training.named_runs import equal_model
from training.observe.metrics import read_metrics
from training.optim import OptimConfig

MODELS = {"Griffin": "griffin", "Hawk": "hawk", "MQA Transformer": "mqa"}
COLOURS = {"Griffin": "#0b6e4f", "Hawk": "#c1666b", "MQA Transformer": "#4a6fa5"}
WINDOW = 50  # steps that the training curves are averaged over


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArguments:
    run_dir: Path = Path("runs/compare")
    """Where the runs are kept."""
    out: Path = Path("pretraining.svg")
    """The plot."""
    text: tuple[str, ...] = ()
    """UTF-8 files to train on instead of the plays."""


def config_of(name: str, text: tuple[str, ...] = ()) -> TrainConfig:
    """One of the three runs: Griffin's window is half a row; the Transformer sees all of it."""
    model = equal_model(MODELS[name], window=256, context_length=512)
    return TrainConfig(
        model=model,
        optimizer=OptimConfig(learning_rate=4e-3, warmup_steps=50, final_fraction=0.05),
        text=text,
        tokenizer="sentencepiece",
        steps=1000,
        batch_size=8,
        sequence_length=512,
        log_every=1,
        eval_every=100,
        eval_cut=True,
        save_every=100,
    )


def main() -> None:
    arguments = tyro.cli(CompareArguments, description=__doc__)
    curves = {}
    print("| model | parameters | bits per byte, in rows of 512 | with the state carried |")
    print("|---|---|---|---|")
    rows = []
    for name in MODELS:
        config = config_of(name, arguments.text)
        run_dir = arguments.run_dir / name.split()[0].lower()
        if not train(config, run_dir, Launch(devices=1)):
            return
        curves[name] = read_metrics(run_dir / run_folder.METRICS)
        carried = carried_bits_per_byte(config, run_dir)
        in_rows = curves[name][-1]["held_out_bits_per_byte"]
        shown = "" if carried is None else f"{carried:.3f}"
        size = parameter_count(config.model)
        rows.append(f"| {name} | {size:,} | {in_rows:.3f} | {shown} |")
    print("\n".join(rows))
    plot(curves, arguments.out)


def carried_bits_per_byte(config: TrainConfig, run_dir: Path) -> float | None:
    """Of whole held-out documents, the state carried from end to end; None for a model whose state
    would grow."""
    if "global_attention" in config.model.block_types:
        return None
    whole = dataclasses.replace(config, eval_cut=False)
    model: Griffin = load_checkpoint(run_dir)[0]
    return held_out_bits_per_byte(model, open_inputs(whole, run_dir))


def plot(curves: dict[str, list[dict]], out: Path) -> None:
    """Training loss (mean of WINDOW steps) and held-out bits per byte, over tokens."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, records in curves.items():
        bits = [record["bits_per_byte"] for record in records]
        tokens = [record["tokens"] / 1e6 for record in records]
        mean = [sum(bits[max(0, i - WINDOW) : i]) / min(i, WINDOW) for i in range(1, len(bits) + 1)]
        shown = slice(0, None, WINDOW // 5)  # a mean changes no faster
        axes.plot(tokens[shown], mean[shown], color=COLOURS[name], linewidth=1, alpha=0.6)
        scored = [r for r in records if "held_out_bits_per_byte" in r]
        axes.plot(
            [r["tokens"] / 1e6 for r in scored],
            [r["held_out_bits_per_byte"] for r in scored],
            "o-",
            color=COLOURS[name],
            markersize=4,
            label=f"{name}, {scored[-1]['held_out_bits_per_byte']:.3f}",
        )
    axes.set(xlabel="million tokens", ylabel="bits per byte", ylim=(1.6, 3.4))
    axes.set_title("Dots: held-out plays. Thin: training text, mean of 50 steps.", fontsize=9)
    axes.legend(title="held out, at the end", fontsize=9)
    axes.grid(alpha=0.3)
    figure.savefig(out)


if __name__ == "__main__":
    main()
