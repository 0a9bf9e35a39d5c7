# SPDX-License-Identifier: Apache-2.0
"""`GET /metrics`: what Prometheus reads, by vLLM's names under the prefix `griffin:`.

Counts are kept here and put into Prometheus' form when it asks: a step of a full server tells
thousands of tokens a second, each with its time.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString
from starlette.responses import Response

from serving.engine.request import Times
from serving.engine.thread import EngineThread

PREFIX = "griffin:"
_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0),
    *(7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 10.0),
)
_TOKENS = tuple(float(m * 10**e) for e in range(7) for m in (1, 2, 5))
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request to the first token of an answer.", _SECONDS),
    "inter_token_latency_seconds": ("Between two tokens of an answer.", _BETWEEN),
    "e2e_request_latency_seconds": ("From a request to the end of an answer.", _SECONDS),
    "request_queue_time_seconds": ("That a request waits for its prompt to be read.", _SECONDS),
    "request_prefill_time_seconds": ("From there until its prompt is read.", _SECONDS),
    "request_decode_time_seconds": ("From there until its answer has ended.", _SECONDS),
    "request_prompt_tokens": ("Tokens of a prompt.", _TOKENS),
    "request_generation_tokens": ("Tokens of an answer.", _TOKENS),
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts, those found in the cache included.",
    "generation_tokens": "Tokens that were generated.",
}


class Histogram:
    """Values in buckets; `le` of a bucket is its bound."""

    def __init__(self, bounds: tuple[float, ...]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """A value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def add_to(self, family: HistogramMetricFamily, model: str) -> None:
        buckets, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            so_far += count
            buckets.append((floatToGoString(bound), so_far))
        family.add_metric([model], buckets, self._sum)


class ModelMetrics:
    """Of the requests to one model."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.counts: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # sequences by why

    def prompts_came(self, tokens: int) -> None:
        self.counts["prompt_tokens"] += tokens

    def first_tokens(self, count: int, seconds: float) -> None:
        self.counts["generation_tokens"] += count
        self.histograms["time_to_first_token_seconds"].observe(seconds)

    def more_tokens(self, count: int, seconds: float) -> None:
        """That came together, so long after those before."""
        self.counts["generation_tokens"] += count
        self.histograms["inter_token_latency_seconds"].observe(seconds / count, count)

    def sequence_ended(
        self, reason: str, *, seconds: float, prompt: int, generated: int, times: Times | None
    ) -> None:
        self.ended[reason] += 1
        told = {"e2e_request_latency_seconds": seconds}
        told |= {"request_prompt_tokens": prompt, "request_generation_tokens": generated}
        if times is not None:
            told["request_queue_time_seconds"] = times.admitted - times.submitted
            told["request_prefill_time_seconds"] = times.read - times.admitted
            told["request_decode_time_seconds"] = times.ended - times.read
        for name, value in told.items():
            self.histograms[name].observe(value)


class Metrics:
    """Of one server. Registers itself with a registry of its own.

    updates: how often sessions have learned so far.
    """

    def __init__(
        self,
        engine_thread: EngineThread,
        model_name: str,
        *,
        updates: Callable[[], int] = lambda: 0,
    ):
        self._engine_thread, self._model_name = engine_thread, model_name
        self._updates = updates
        self._models = {model_name: ModelMetrics()}
        self._http: Counter[tuple[str, str, str]] = Counter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def of(self, model: str) -> ModelMetrics:
        return self._models.setdefault(model, ModelMetrics())

    def http_request(self, method: str, route: str, status: int) -> None:
        self._http[method, route, str(status)] += 1

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_engine()
        for name, description in _COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, description, labels=["model_name"])
            for model, metrics in self._models.items():
                counter.add_metric([model], metrics.counts[name])
            yield counter
        labels = ["model_name", "finished_reason"]
        success = CounterMetricFamily(f"{PREFIX}request_success", "Answers by end.", labels=labels)
        for model, metrics in self._models.items():
            for reason in ("stop", "length", "abort"):
                success.add_metric([model, reason], metrics.ended[reason])
        yield success
        for name, (description, _) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(PREFIX + name, description, labels=["model_name"])
            for model, metrics in self._models.items():
                metrics.histograms[name].add_to(family, model)
            yield family
        labels = ["method", "route", "status"]
        requests = CounterMetricFamily(f"{PREFIX}http_requests", "HTTP requests.", labels=labels)
        for key, count in self._http.items():
            requests.add_metric(list(key), count)
        yield requests

    def _of_the_engine(self) -> Iterator[Metric]:
        def gauge(name: str, description: str, value: float) -> Metric:
            family = GaugeMetricFamily(PREFIX + name, description, labels=["model_name"])
            family.add_metric([self._model_name], value)
            return family

        occupancy = self._engine_thread.occupancy
        slots, running, waiting = (0, 0, 0) if occupancy is None else occupancy
        yield gauge("num_requests_running", "Sequences that have a slot.", running)
        yield gauge("num_requests_waiting", "Sequences that wait for a slot.", waiting)
        yield gauge("num_slots", "Sequences that are decoded at once.", slots)
        engine = self._engine_thread.built
        cache = None if engine is None else engine.cache
        queried, hit = (0, 0) if cache is None else (cache.counts.queried, cache.counts.hit)
        speculation = None if engine is None else engine.speculation
        drafts, proposed, accepted = (
            (0, 0, 0)
            if speculation is None
            else (speculation.verified, speculation.proposed, speculation.accepted)
        )
        for name, description, count in (
            ("spec_decode_num_drafts", "Verifications, with or without a guess.", drafts),
            ("spec_decode_num_draft_tokens", "Tokens that were guessed.", proposed),
            ("spec_decode_num_accepted_tokens", "Of those, the ones that stood.", accepted),
            ("prefix_cache_queries", "Tokens of prompts that were looked for.", queried),
            ("prefix_cache_hits", "Tokens of prompts that did not have to be read.", hit),
            ("adaptation_updates", "Updates of sessions that learn.", self._updates()),
        ):
            counter = CounterMetricFamily(PREFIX + name, description, labels=["model_name"])
            counter.add_metric([self._model_name], count)
            yield counter
        labels = ["model_name", "place"]
        sizes = GaugeMetricFamily(f"{PREFIX}prefix_cache_bytes", "Of its states.", labels=labels)
        for place in ("device", "host"):
            size = 0 if cache is None else cache.bytes(place)
            sizes.add_metric([self._model_name, place], size)
        yield sizes


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def read_metrics(request: Request) -> Response:
        """In Prometheus' format, or OpenMetrics where that is asked for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"Content-Type": content_type})
