"""The examples of deployment: they name what there is, and Ray Serve runs where it is installed."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro
import yaml

from serving.serve_options import ServeArguments
from training.data.data_cli import TokenizeArguments

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def manifests():
    documents = yaml.safe_load_all((EXAMPLES / "kubernetes/serve.yaml").read_text("utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def container(manifests):
    return manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def test_the_server_of_kubernetes_starts_with_options_that_there_are(manifests, container):
    verb, *options = container["args"]
    assert verb == "serve"
    arguments = tyro.cli(ServeArguments, args=options)
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + arguments.drain
    assert container["ports"][0]["containerPort"] == arguments.port
    assert arguments.host == "0.0.0.0"
    environment = {one["name"] for one in container["env"]}
    assert environment == {"GRIFFIN_API_KEYS"}


def test_probes_and_metrics_are_the_servers(manifests, container, ask):
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths["readinessProbe"] == "/ready"
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    for path in (*paths.values(), annotations["prometheus.io/path"]):
        assert ask("GET", path).status_code == 200
    rule = yaml.safe_load(manifests["ConfigMap"]["data"]["rule.yaml"])[0]
    series = re.match(r"[\w:]+", rule["seriesQuery"])
    assert series is not None
    assert f"\n{series[0]}" in ask("GET", "/metrics").text
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert rule["name"]["as"] == scaled


def test_the_image_has_every_package():
    lines = (EXAMPLES / "serving/Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    for name in copied:
        assert (ROOT / name).exists()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(copied)
    commands = [line for line in lines if line.startswith("#   docker")]
    assert [shlex.split(line[1:])[1] for line in commands] == ["build", "run"]


def test_the_clusters_of_ray_run_commands_that_there_are():
    """Of SLURM's script the last command, of Kubernetes' manifest its entry point."""
    manifest = yaml.safe_load((EXAMPLES / "kubernetes/ray.yaml").read_text("utf-8"))
    script = (EXAMPLES / "slurm/ray.sh").read_text("utf-8").replace("\\\n", " ")
    [line] = [line for line in script.splitlines() if line.startswith("griffin ")]
    for command in (manifest["spec"]["entrypoint"], line):
        griffin, data, tokenize, *options = shlex.split(command)
        assert (griffin, data, tokenize) == ("griffin", "data", "tokenize")
        arguments = tyro.cli(TokenizeArguments, args=options)
        assert arguments.ray in ("auto", "$address")
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        assert container["volumeMounts"][0]["name"] == "shared"
    done = subprocess.run(["bash", "-n", EXAMPLES / "slurm/ray.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
