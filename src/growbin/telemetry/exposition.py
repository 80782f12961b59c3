"""What /metrics shows. Only values change between two scrapes: names, labels and words are rendered once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import REGISTRY, Metric, generate_latest
from prometheus_client.utils import floatToGoString


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric as the library renders it; gives it to the library in turn."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


@dataclass(frozen=True, slots=True)
class _Rendered:
    labels: list[dict[str, str]]  # of each sample
    head: str
    starts: list[str]  # of each sample's line, up to its value


_rendered: dict[str, _Rendered] = {}


def exposition() -> bytes:
    """The text that the library's `generate_latest()` makes, at half its price."""
    text = list[str]()
    for metric in REGISTRY.collect():
        known = _rendered.get(metric.name)
        labels = [sample.labels for sample in metric.samples]
        if known is None or known.labels != labels:
            known = _rendered[metric.name] = _render(metric, labels)
        text.append(known.head)
        text += [
            f"{start}{floatToGoString(sample.value)}\n"  # type: ignore[no-untyped-call]
            for start, sample in zip(known.starts, metric.samples, strict=True)
        ]
    return "".join(text).encode()


def _render(metric: Metric, labels: list[dict[str, str]]) -> _Rendered:
    lines = generate_latest(_Family(metric)).decode().splitlines(keepends=True)
    samples = lines[len(lines) - len(labels) :]
    head = "".join(lines[: len(lines) - len(labels)])
    return _Rendered(labels, head, [f"{line.rpartition(' ')[0]} " for line in samples])
