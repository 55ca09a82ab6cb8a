"""The door to `workers.commands`, which knows queues and dead letters.

Loaded by name, when a command needs it: the parent's package never imports the workers'
statically. Used by `queue_commands` and `dead_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from supervisor.console import Invocation

if TYPE_CHECKING:
    # Only for the reader: the short commands do without the whole configuration.
    from supervisor.config import Config
    from supervisor.errors import Problem
    from supervisor.letters import Choice
    from supervisor.shapes import DeadLetter, Purge, QueueStatus, Replay


class Servers(Protocol):
    """What a look at the servers and databases of a configuration has found."""

    @property
    def lost(self) -> tuple[Problem, ...]:
        """Give those that do not answer."""
        ...

    @property
    def wrong(self) -> tuple[Problem, ...]:
        """Give what is not there as the configuration says."""
        ...

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Give what would be better otherwise."""
        ...


class Commands(Protocol):
    """What `workers.commands` offers."""

    def publish(
        self,
        config_path: Path,
        topic: str,
        payloads: Iterable[object],
        delay_s: float,
        message_id: str | None,
        url: str | None,
    ) -> list[str]:
        """Put messages on a queue; give their ids."""
        ...

    def queue_list(self, config: Config) -> list[QueueStatus]:
        """Look at every queue of the configuration."""
        ...

    def queue_pause(self, config: Config, topic: str) -> list[QueueStatus]:
        """Let nobody take from a topic; look at it in every queue that has it."""
        ...

    def queue_resume(self, config: Config, topic: str) -> list[QueueStatus]:
        """Undo the pause; look at the topic in every queue that has it."""
        ...

    def queue_waiting(self, config: Config, topic: str) -> int:
        """Count what a purge would delete."""
        ...

    def queue_purge(self, config: Config, topic: str) -> Purge:
        """Delete what waits on a topic."""
        ...

    def dead_list(self, config: Config, choice: Choice) -> list[DeadLetter]:
        """Look at dead letters."""
        ...

    def dead_show(self, config: Config, choice: Choice) -> list[dict[str, object]]:
        """Look at all that is known of some of them."""
        ...

    def dead_replay(self, config: Config, choice: Choice) -> Replay:
        """Put dead letters back on their topics."""
        ...

    def dead_purge(
        self, config: Config, choice: Choice, confirm: Callable[[int], None] | None
    ) -> Purge:
        """Delete dead letters for good."""
        ...

    def servers(self, config: Config) -> Servers:
        """Ask each server of a configuration whether it would work."""
        ...


def load() -> Commands:
    """Import what the commands do."""
    from importlib import import_module

    return cast("Commands", import_module("workers.commands"))


def configuration(invocation: Invocation) -> Config:
    """Read the configuration that was named."""
    from supervisor.loading import load as load_configuration

    return load_configuration(invocation.path)
