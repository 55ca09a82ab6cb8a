"""Which modules the master imports for its children, by the types of its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import preload, settings
from supervisor.loading import load

CONSUMERS = {
    "queue": ("url = redis://h:1/0\ntopics = t", {"workers.sources.redis_list"}),
    "stream": ("url = redis://h:1/0\ntopics = t\ngroup = g", {"workers.sources.redis_stream"}),
    "kafka": ("brokers = h:1\ntopics = t\ngroup = g", {"workers.sources.kafka"}),
    "table": (
        "url = postgresql://h:1/d\ntable = t",
        {"workers.tables", "workers.sources.postgres_lock"},
    ),
}


def test_all_types_of_consumers_are_here() -> None:
    assert CONSUMERS.keys() == settings.CONSUMERS


@pytest.mark.parametrize("kind", CONSUMERS)
def test_no_consumer_imports_its_loop_or_its_source_anew(tmp_path: Path, kind: str) -> None:
    keys, sources = CONSUMERS[kind]
    conf = tmp_path / "w.ini"
    conf.write_text(f"[daemon:one]\ntype = {kind}\n{keys}\nhandler = shop:handle\n")
    wanted = {"workers.runtime", "workers.consumer", *sources}
    assert set(preload.modules(load(conf))) == wanted
