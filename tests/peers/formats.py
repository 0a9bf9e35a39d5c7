# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Do the real DeepMind and Hugging Face programs load what we write, and compute the same?

Their packages need PyTorch and one of them has our import name, so this runs in an environment of
its own (half a GB with the CPU build of PyTorch; then half a minute):

    python3 -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 \\
        recurrentgemma==1.0.1 jax==0.10.2 flax==0.12.8 orbax-checkpoint==0.12.8 && \\
        PEERS/bin/python tests/peers/formats.py

Expected: one line a check, each with a difference below 2e-5 in float32. Models: the golden one, a
random one of three layers and a tail, and a Hawk. Logits are compared for T = W, which is as far as
transformers agrees with DeepMind about the window, and with DeepMind for T = 3 W too.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
TOLERANCE = 2e-5

# Runs with our checkout first on the path: here `recurrentgemma` is ours.
OURS = """
import dataclasses, pathlib, sys
import jax.numpy as jnp, numpy as np
from flax import nnx
from checkpoints import huggingface, store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from checkpoints.model_json import read_model_json
from checkpoints.open_checkpoint import OpenCheckpoint, StoredTensor, read_params
from recurrentgemma.parameters import param_shapes

out = pathlib.Path(sys.argv[1])
golden = read_model_json(pathlib.Path("tests/golden/config.json"))
configs = {
    "golden": golden,
    "tail": dataclasses.replace(golden, num_layers=5, lru_width=80, logits_soft_cap=20.0),
    "hawk": dataclasses.replace(golden, num_layers=3, pattern=("recurrent",), num_gate_blocks=4),
}
for name, config in configs.items():
    if name == "golden":
        stored = dict(np.load("tests/golden/params.npz"))
        tensors = {n: StoredTensor(a.shape, a.dtype.name) for n, a in stored.items()}
        read = lambda dtype: iter(stored.items())
        checkpoint = OpenCheckpoint(out, "deepmind-flax", tensors, read)
        params = dict(read_params(checkpoint, "float32"))
    else:
        generator = np.random.default_rng(1)
        params = {
            n: (generator.standard_normal(s) * (s[-2] if len(s) > 1 else 9) ** -0.5).astype("f4")
            for n, s in param_shapes(config).items()
        }
    here = out / name
    huggingface.write(here / "huggingface-shards", dict(params), config, shard_bytes=200_000)
    store.write(here / "griffin", params, config)
    convert(here / "griffin", here / "huggingface", "huggingface")
    convert(here / "griffin", here / "huggingface-bfloat16", "huggingface", dtype="bfloat16")
    convert(here / "griffin", here / "deepmind-flax", "deepmind-flax")
    convert(here / "griffin", here / "kaggle", "deepmind-flax", params_wrapper=False)
    convert(here / "griffin", here / "deepmind.pt", "deepmind-torch")
    model, _, _ = load_checkpoint(here / "griffin")
    window, vocabulary = config.attention_window, config.vocab_size
    tokens = np.random.default_rng(2).integers(0, vocabulary, (2, 3 * window))
    logits, _ = model(jnp.asarray(tokens, jnp.int32))
    np.savez(here / "expected.npz", tokens=tokens, logits=np.asarray(logits))
    theirs = dict(
        vocab_size=vocabulary, width=config.width, mlp_expanded_width=config.mlp_width,
        num_heads=config.num_gate_blocks, lru_width=config.lru_width,
        embeddings_scale_by_sqrt_dim=config.scale_embeddings, attention_window_size=window,
        logits_soft_cap=config.logits_soft_cap,
    )
    np.save(here / "theirs.npy", theirs | {"types": config.block_types}, allow_pickle=True)
"""


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", OURS, folder], check=True, cwd=ROOT, env=environment)
        worst = 0.0
        for model in sorted(pathlib.Path(folder).iterdir()):
            expected = dict(np.load(model / "expected.npz"))
            theirs = np.load(model / "theirs.npy", allow_pickle=True).item()
            for check in (transformers_logits, deepmind_flax_logits, deepmind_torch_logits):
                for what, difference in check(model, theirs, **expected):
                    print(f"{model.name:7} {what:48} max |difference| {difference:.1e}", flush=True)
                    worst = max(worst, difference)
    print(f"worst: {worst:.1e}, allowed: {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def transformers_logits(model, theirs, tokens, logits):
    import torch
    from transformers import AutoModelForCausalLM, RecurrentGemmaForCausalLM

    window = theirs["attention_window_size"]
    few = torch.from_numpy(tokens[:, :window])
    assert len(list((model / "huggingface-shards").glob("*.safetensors"))) > 2
    for loader, folder in (
        (AutoModelForCausalLM, "huggingface-shards"),
        (RecurrentGemmaForCausalLM, "huggingface"),
    ):
        loaded, report = loader.from_pretrained(model / folder, output_loading_info=True)
        unhappy = {key: value for key, value in report.items() if value}
        assert not unhappy, unhappy
        assert loaded.dtype == torch.float32
        with torch.no_grad():
            got = loaded(few, use_cache=False).logits.numpy()  # its cache cannot hold a Hawk
        yield f"{loader.__name__}, {folder}", np.abs(got - logits[:, :window]).max()
    half = AutoModelForCausalLM.from_pretrained(model / "huggingface-bfloat16")
    assert half.dtype == torch.bfloat16
    rounded = {n: t.to(torch.bfloat16) for n, t in loaded.state_dict().items()}
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, rounded[name]), name
    yield "transformers in bfloat16: weights rounded alike", 0.0
    again = model / "saved-by-transformers"
    loaded.save_pretrained(again, safe_serialization=True)
    yield "we read what transformers saves again", _our_logits(model, again, tokens, logits)


def deepmind_flax_logits(model, theirs, tokens, logits):
    import jax.numpy as jnp
    import orbax.checkpoint

    from recurrentgemma import jax as recurrentgemma

    config = _deepmind_config(theirs)
    for folder in ("deepmind-flax", "kaggle"):
        restored = orbax.checkpoint.PyTreeCheckpointer().restore(model / folder)
        params = restored["params"] if folder == "deepmind-flax" else restored
        inferred = recurrentgemma.GriffinConfig.from_flax_params_or_variables(
            restored, embeddings_scale_by_sqrt_dim=True, attention_window_size=1, logits_soft_cap=1
        )
        assert inferred.block_types == config.block_types
        assert (inferred.width, inferred.lru_width) == (config.width, config.lru_width)
        griffin = recurrentgemma.Griffin(config, dtype=jnp.float32)
        where = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        got, _ = griffin.apply({"params": params}, jnp.asarray(tokens), where, return_cache=False)
        yield f"DeepMind JAX, {folder}, T = 3 W", np.abs(np.asarray(got) - logits).max()


def deepmind_torch_logits(model, theirs, tokens, logits):
    import torch

    from recurrentgemma import torch as recurrentgemma

    state = torch.load(model / "deepmind.pt", weights_only=True)
    griffin = recurrentgemma.Griffin(_deepmind_config(theirs), dtype=torch.float32)
    griffin.load_state_dict(state, strict=True)
    where = torch.arange(tokens.shape[1]).expand(*tokens.shape)
    with torch.no_grad():
        got, _ = griffin(torch.from_numpy(tokens), where)
    yield "DeepMind PyTorch, load_state_dict, T = 3 W", np.abs(got.numpy() - logits).max()


def _deepmind_config(theirs):
    from recurrentgemma import common

    kinds = {
        "recurrent": common.TemporalBlockType.RECURRENT,
        "local_attention": common.TemporalBlockType.ATTENTION,
    }
    fields = {name: value for name, value in theirs.items() if name != "types"}
    return common.GriffinConfig(
        **fields,
        block_types=tuple(kinds[t] for t in theirs["types"]),
        scan_type=common.ScanType.ASSOCIATIVE_NATIVE,  # its default takes minutes to compile
    )


def _our_logits(model, folder, tokens, logits) -> float:
    code = (
        "import sys, numpy as np, jax.numpy as jnp\n"
        "from checkpoints.load import load_checkpoint\n"
        "tokens = np.load(sys.argv[2])['tokens']\n"
        "model, _, _ = load_checkpoint(sys.argv[1])\n"
        "np.save(sys.argv[3], model(jnp.asarray(tokens, jnp.int32))[0])"
    )
    there = model / "again.npy"
    command = [sys.executable, "-c", code, str(folder), str(model / "expected.npz"), str(there)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return float(np.abs(np.load(there) - logits).max())


if __name__ == "__main__":
    sys.exit(main())
