"""A server's replicas: its options, and with Ray Serve itself, sessions that several share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import store
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from serving.ray_serve import ReplicaArguments, parsed
from tests.checkpoints import run_steps

ROOT = Path(__file__).parent.parent.parent


def test_the_servers_options_are_arguments():
    assert parsed({"path": "runs/demo"}) == ReplicaArguments(path="runs/demo")
    given = {
        "path": "runs/my demo",
        "slots": "4",
        "adapters": "poems=runs/poems 'law=runs/the law'",
        "load_adapters": "true",
        "log_requests": "False",
        "mesh.tensor": "1",
        "sessions": "/shared/sessions",
        "dtype": "bfloat16",
        "replicas": "3",
        "most_replicas": "5",
        "gpus": "0.5",
    }
    assert parsed(given) == ReplicaArguments(
        path="runs/my demo",
        slots=4,
        adapters=("poems=runs/poems", "law=runs/the law"),
        load_adapters=True,
        log_requests=False,
        sessions="/shared/sessions",
        dtype="bfloat16",
        replicas=3,
        most_replicas=5,
        gpus=0.5,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "path=PATH is missing"),
        ({"slot": "3"}, r"slot=3: there is no such argument \(did you mean 'slots'"),
        ({"port": "80"}, "port is Ray Serve's: set http_options.port"),
        ({"load_adapters": "yes"}, "load_adapters=yes: expected true or false"),
        ({"slots": "many"}, "these arguments cannot be, for the reason above"),
        ({"replicas": "0"}, "replicas=0: expected 1 or more"),
        ({"replicas": "3", "most_replicas": "2"}, r"most_replicas=2: expected 3 \(replicas\) or"),
        ({"adapting": "2", "sessions": "s"}, "adapting with several replicas"),
    ],
)
def test_what_cannot_be(given, message):
    with pytest.raises(UserError, match=message):
        parsed(given if "PATH" in message else {"path": "m", **given})


RAY = """
import httpx, sys, threading
import ray
from ray import serve
from serving.ray_serve import app

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[2])})
given = {"path": sys.argv[1], "slots": "1", "cpus": "0.5", "cache": "0.01"}
given |= {"sessions": sys.argv[3], "log_requests": "false"}
serve.run(app(given))
url = f"http://127.0.0.1:{sys.argv[2]}"
places = {}
for session in ("alice", "bob", "carol", "dave", "erin", "frank"):
    headers = {"X-Session-Id": session, "Authorization": "Bearer secret"}
    answers = [httpx.get(f"{url}/replica", headers=headers).json()["replica"] for _ in range(4)]
    assert len(set(answers)) == 1, answers
    places[session] = answers[0]
assert len(set(places.values())) == 2, places
body = {"prompt": "ab", "max_tokens": 8, "temperature": 0}
texts = set()
for session in places:
    headers = {"X-Session-Id": session, "Authorization": "Bearer secret"}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers)
    texts.add(answer.json()["choices"][0]["text"])
assert len(texts) == 1, texts
body["stream"] = True
with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers) as answer:
    assert list(answer.iter_lines())[-2] == "data: [DONE]"

# What one replica has kept, another goes on with.
def told(header):
    body = {"prompt": "ab", "session": "ann", "max_tokens": 4, "temperature": 0}
    headers = {"X-Session-Id": header, "Authorization": "Bearer secret"}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]
one, other = (next(s for s, place in places.items() if place == p) for p in set(places.values()))
said = [told(header) for header in (one, other, one)]
for _ in range(2):
    httpx.delete(f"{url}/v1/sessions/ann", headers={"Authorization": "Bearer secret"})
assert said == [told(one) for _ in range(3)], said
assert httpx.post(f"{url}/v1/completions", json={"prompt": "x"}).status_code == 401

# Another deployment takes over while clients ask.
statuses, is_over = [], threading.Event()
def ask_on(header):
    headers = {"X-Session-Id": header, "Authorization": "Bearer secret"}
    while not is_over.is_set():
        body = {"prompt": "ab", "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)
        statuses.append((answer.status_code, answer.text[-200:] * (answer.status_code != 200)))
clients = [threading.Thread(target=ask_on, args=(session,)) for session in list(places)[:3]]
for client in clients:
    client.start()
before = places[one]
serve.run(app(given | {"slots": "2"}))
is_over.set()
for client in clients:
    client.join()
headers = {"X-Session-Id": one, "Authorization": "Bearer secret"}
assert httpx.get(f"{url}/replica", headers=headers).json()["replica"] != before
assert {status for status, _ in statuses} == {200}, statuses
assert len(statuses) > 20, len(statuses)
serve.shutdown()
print("every session at its replica, and all answer alike")
"""


@pytest.mark.slow  # two replicas compile their programs
def test_ray_serve(tmp_path, language_model):
    pytest.importorskip("ray", reason="needs Ray: pip install 'griffin-lm[ray]'")
    lm = language_model("griffin")
    store.write_run_config(tmp_path, lm.config, {})
    run_steps.save(tmp_path, 1, flat_params(lm.model))
    lm.tokenizer.save(tmp_path)
    command = [sys.executable, "-c", RAY, str(tmp_path), "8765", str(tmp_path / "sessions")]
    environment = os.environ | {"GRIFFIN_API_KEYS": "secret", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, cwd=tmp_path, env=environment
    )
    assert "every session at its replica" in done.stdout, done.stderr
