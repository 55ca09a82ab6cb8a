"""A real Kafka broker of a test run, in KRaft mode."""

from __future__ import annotations

import base64
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from tests.helpers.eventually import PATIENCE_S
from tests.helpers.local_server import LocalServer

_JARS = Path(__file__).resolve().parents[2] / ".cache" / "kafka" / "lib"

_JAVA: Final = (
    *("java", "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-Xshare:auto", "-Djava.awt.headless=true", "-cp", f"{_JARS}/*"),
)
"""A small heap, and a compiler that is done soon: about 5 s to start, 160 MB."""

_INNER: Final = 8_000
"""The controller listens so many ports below the broker."""

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{inner}
listeners=PLAINTEXT://{address}:{port},CONTROLLER://127.0.0.1:{inner}
advertised.listeners=PLAINTEXT://{address}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
num.partitions=4
num.network.threads=2
num.io.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=16777216
"""


LACKS: Final = "needs Java 17 and the jars of Kafka: make kafka"


def is_there() -> bool:
    """Tell whether this machine can run one."""
    return shutil.which("java") is not None and _JARS.is_dir()


class KafkaServer(LocalServer):
    """One broker, and the controller in the same process."""

    STOP = signal.SIGKILL
    """What it has written stays."""

    ADDRESS = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        if not is_there():
            pytest.skip(LACKS)
        super().__init__(folder)
        # Not "-" first: the tool would take it for an option.
        self._cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        self.topics: set[str] = set()
        """Those that the conformance suite has made."""
        self.start_anywhere()

    @property
    def brokers(self) -> str:
        """Give where it listens."""
        return f"{self.ADDRESS}:{self.port}"

    def close(self) -> None:
        """End it for good, even if it stands still."""
        self.stop()

    def command(self, port: int) -> list[str | Path]:
        """Give the words that start it in the foreground, in a folder made ready for the port."""
        file = self.folder / f"{port}.properties"
        if not file.exists():
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            file.write_text(
                _PROPERTIES.format(
                    address=self.ADDRESS, port=port, inner=port - _INNER, folder=self.folder
                )
            )
            subprocess.run(
                [*_JAVA, "kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", file],
                check=True,
                stdout=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                timeout=4 * PATIENCE_S,
            )
        return [*_JAVA, "kafka.Kafka", file]

    def answers(self) -> bool:
        """Ask for the cluster, whose id is ours alone."""
        # The library leaves sockets behind that were refused.
        with socket.socket() as one:
            if one.connect_ex((self.ADDRESS, self.port)):
                return False
        try:
            with self.admin(bootstrap_timeout_ms=2000) as admin:
                return bool(admin.describe_cluster()["cluster_id"] == self._cluster)
        except KafkaError:
            return False

    @contextmanager
    def admin(self, **more: Any) -> Iterator[KafkaAdminClient]:
        """Give a client that makes topics. One that does not connect leaves nothing behind."""
        with ExitStack() as stack:

            def keep(**settings: Any) -> KafkaNetClient:
                client = KafkaNetClient(**settings)
                stack.callback(client.close)
                return client

            yield KafkaAdminClient(bootstrap_servers=self.brokers, kafka_client=keep, **more)
