"""A registry exports what was counted, in formats that parse, and one broken part never hides the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sadik.metrics import Registry, expose

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(registry: Registry) -> Samples:
    text = expose(registry, "")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def filled() -> Registry:
    registry = Registry(process=False)
    commands = registry.counter("sadik_commands_total", "Commands.", ("command", "outcome"))
    commands.labels("get", "ok").add(7)
    registry.gauge("sadik_clients", "Clients.").child.set(2)
    registry.gauge_function("sadik_keys", "Keys.", lambda: 40 + 2)
    latency = registry.histogram("sadik_command_seconds", "Time.", (0.001, 0.1), ("command",))
    latency.labels("get").observe(0.001, 4)
    latency.labels("get").observe(3.0)
    return registry


EXPECTED: Samples = {
    ("sadik_commands_total", (("command", "get"), ("outcome", "ok"))): 7,
    ("sadik_clients", ()): 2,
    ("sadik_keys", ()): 42,
    ("sadik_command_seconds_bucket", (("command", "get"), ("le", "0.001"))): 4,
    ("sadik_command_seconds_bucket", (("command", "get"), ("le", "0.1"))): 4,
    ("sadik_command_seconds_bucket", (("command", "get"), ("le", "+Inf"))): 5,
    ("sadik_command_seconds_count", (("command", "get"),)): 5,
    ("sadik_command_seconds_sum", (("command", "get"),)): 3.004,
    ("sadik_scrape_errors_total", ()): 0,
}


def test_everything_declared_is_exported() -> None:
    """Names, labels and values arrive as they were counted."""
    assert samples(filled()) == pytest.approx(EXPECTED)


def test_accept_header_chooses_openmetrics() -> None:
    """Prometheus asks for OpenMetrics by default and refuses a text that is not complete."""
    body, content_type = expose(filled(), "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["sadik_commands"].type == "counter"
    assert families["sadik_command_seconds"].type == "histogram"
    assert body.endswith(b"# EOF\n")
    assert expose(filled(), "*/*")[1].startswith("text/plain")


def test_collector_function_is_asked_at_every_scrape() -> None:
    """Statistics that a component keeps anyway need no instrument of their own."""
    registry = Registry(process=False)
    written = 0

    def engine() -> Iterator[Metric]:
        yield CounterMetricFamily("sadik_log_written_bytes_total", "Written.", value=written)
        yield GaugeMetricFamily("sadik_log_segments", "Segments.", value=3)

    registry.collector(engine)
    for written in (10, 25):
        found = samples(registry)
        assert found["sadik_log_written_bytes_total", ()] == written
        assert found["sadik_log_segments", ()] == 3


def test_failing_callback_is_counted_and_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """When a part is broken the other figures matter most."""
    registry = filled()

    def broken() -> float:
        raise OSError("no such engine")

    def half_broken() -> Iterator[Metric]:
        yield GaugeMetricFamily("sadik_half", "Half.", value=1)
        raise OSError("no other half")

    registry.gauge_function("sadik_broken", "Broken.", broken)
    registry.collector(half_broken)
    found = samples(registry)
    assert found.pop(("sadik_scrape_errors_total", ())) == 2
    assert found == pytest.approx({k: v for k, v in EXPECTED.items() if k[0] != "sadik_scrape_errors_total"})
    assert "no such engine" in caplog.text


@pytest.mark.parametrize("name", ["sadik_keys", "http_requests"])
def test_collected_family_that_would_spoil_the_scrape_is_left_out(name: str) -> None:
    """Two families of one name, or a foreign name, would make a scraper refuse the whole answer."""
    registry = filled()
    registry.collector(lambda: [GaugeMetricFamily(name, "Again.", value=1)])
    found = samples(registry)
    assert found["sadik_keys", ()] == 42
    assert found["sadik_scrape_errors_total", ()] == 1
    assert "http_requests" not in {sample for sample, _ in found}


def test_declaration_mistakes_are_refused() -> None:
    """A name is lower case, starts with sadik_, says what it is, and is declared once."""
    registry = Registry(process=False)
    registry.gauge("sadik_clients", "")
    for name in ("clients", "sadik", "sadik_Clients", "sadik__clients", "sadik_clients\n", "sadik_clients"):
        with pytest.raises(ValueError, match=r"named sadik_|declared twice"):
            registry.gauge(name, "")
    with pytest.raises(ValueError, match="_total"):
        registry.counter("sadik_commands", "")
    for labels in (("le",), ("Command",), ("a", "a"), ("a-b",)):
        with pytest.raises(ValueError, match="cannot be a label"):
            registry.counter("sadik_commands_total", "", labels)


def test_registries_are_independent() -> None:
    """Many nodes live in one process in the simulator."""
    first, second = Registry(process=False), Registry(process=False)
    first.counter("sadik_commands_total", "").child.add(5)
    second.counter("sadik_commands_total", "")
    assert samples(second)["sadik_commands_total", ()] == 0


def test_process_figures_come_with_the_registry() -> None:
    """Memory, processor time, open files and collections are there under their usual names."""
    names = {name for name, _ in samples(Registry())}
    assert {
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "python_gc_collections_total",
        "python_info",
    } <= names
