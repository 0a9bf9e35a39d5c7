"""What Prometheus reads, by names that people already chart."""

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.engine.request import Times
from serving.features.prefix_cache import PrefixCache
from serving.http.metrics import Histogram, Metrics, ModelMetrics
from serving.http.options import ServerOptions
from serving.http.server import create_app

PREFIX = "griffin:"


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    """(name without its prefix, labels but the model's) -> value."""
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            name = sample.name.removeprefix(PREFIX)
            values[name, frozenset(labels.items())] = sample.value
    return values


@pytest.fixture
def read(ask):
    """`read(name, **labels)` of GET /metrics."""

    def value(name: str, **labels: str) -> float:
        return samples(ask("GET", "/metrics").text)[name, frozenset(labels.items())]

    return value


def test_a_histogram_counts_as_prometheus_wants_it():
    model = ModelMetrics()
    model.first_tokens(2, 0.005)  # a value on a bound belongs below it
    model.more_tokens(4, 0.4)
    histogram = Histogram((1.0, 2.0))
    for value, count in ((0.5, 1), (1.0, 2), (1.5, 1), (9.0, 3)):
        histogram.observe(value, count)
    added: list = []

    class Family:
        def add_metric(self, labels, buckets, sum_value):
            added.append((labels, buckets, sum_value))

    histogram.add_to(Family(), "m")  # type: ignore[arg-type]
    assert added == [(["m"], [("1.0", 3), ("2.0", 4), ("+Inf", 7)], 31.0)]
    assert model.counts["generation_tokens"] == 6


def test_what_speculation_gives(read, fake_engine):
    names = [f"spec_decode_num_{name}_total" for name in ("drafts", "draft_tokens")]
    names.append("spec_decode_num_accepted_tokens_total")
    assert [read(name) for name in names] == [0, 0, 0]
    fake_engine.speculation = SimpleNamespace(verified=3, proposed=21, accepted=9)
    assert [read(name) for name in names] == [3, 21, 9]


def test_what_requests_leave_behind(ask, read, fake_engine):
    fake_engine.cache = PrefixCache(device_bytes=100)
    fake_engine.cache.counts.queried, fake_engine.cache.counts.hit = 300, 128
    asked = {"prompt": ["abc", "d"], "n": 2, "max_tokens": 5}
    assert ask("POST", "/v1/completions", json=asked).status_code == 200
    assert ask("POST", "/v1/completions", json={"prompt": ""}).status_code == 400
    ask("GET", "/nothing/at/all")
    assert read("prompt_tokens_total") == 4  # of a prompt once
    assert read("generation_tokens_total") == 20
    assert read("request_success_total", finished_reason="length") == 4
    assert read("request_success_total", finished_reason="abort") == 0
    assert read("time_to_first_token_seconds_count") == 4
    assert read("inter_token_latency_seconds_count") == 16
    assert read("e2e_request_latency_seconds_count") == 4
    assert read("request_generation_tokens_sum") == 20
    assert read("prefix_cache_queries_total") == 300
    assert read("prefix_cache_hits_total") == 128
    assert read("prefix_cache_bytes", place="host") == 0
    assert (read("num_slots"), read("num_requests_running")) == (2, 0)
    here = {"method": "POST", "route": "/v1/completions"}
    assert read("http_requests_total", **here, status="200") == 1
    assert read("http_requests_total", **here, status="400") == 1
    assert read("http_requests_total", method="GET", route="none", status="404") == 1
    assert read("process_resident_memory_bytes") > 1e6


def test_the_engines_own_times(engine_thread):
    metrics = Metrics(engine_thread, "m")
    times = Times(submitted=1.0, admitted=1.5, read=3.5, ended=7.5)
    metrics.of("m").sequence_ended("stop", seconds=9.0, prompt=3, generated=4, times=times)
    values = {s.name: s.value for metric in metrics.collect() for s in metric.samples}
    for name, seconds in (("queue", 0.5), ("prefill", 2.0), ("decode", 4.0)):
        assert values[f"griffin:request_{name}_time_seconds_sum"] == seconds


def test_who_waits_and_runs(ask, read, fake_engine, engine_thread, url, wait_until):
    import concurrent.futures

    import httpx

    fake_engine.gate.clear()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        body = {"prompt": "a", "n": 4, "max_tokens": 1}
        answer = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=30)
        wait_until(lambda: engine_thread.unfinished == 4)
        wait_until(lambda: fake_engine.live)
        assert (read("num_requests_running"), read("num_requests_waiting")) == (2, 2)
        fake_engine.gate.set()
        assert answer.result().status_code == 200


def test_metrics_need_a_key_unless_they_do_not(engine_thread, running_server):
    import httpx

    for open_metrics, status in ((False, 401), (True, 200)):
        options = ServerOptions(api_keys=("k",), open_metrics=open_metrics)
        app = create_app(engine_thread, model_name="fake", options=options)
        with running_server(app) as url:
            answer = httpx.get(f"{url}/metrics")
            assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
