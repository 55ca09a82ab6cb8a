"""The clients of kafka-python: their settings, how one is made, and what their errors mean.

They start threads, which a fork does not take along: a client is made after the fork, and those of
a parent are left alone. Source: kafka-python 3.0.12.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from kafka import (  # type: ignore[import-untyped]  # it has no types
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
)
from kafka.errors import (  # type: ignore[import-untyped]
    AuthorizationError,
    KafkaConfigurationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    PolicyViolationError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]
from kafka.net.manager import KafkaConnectionManager  # type: ignore[import-untyped]
from kafka.net.selector import NetworkSelector  # type: ignore[import-untyped]

from workers.sources.source import SourceTrouble

Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)

Settings = Mapping[str, Any]
"""What a client is made with, by the names of kafka-python."""

_OURS: Final = frozenset(
    {
        *("bootstrap_servers", "group_id", "group_instance_id", "enable_auto_commit"),
        *("key_deserializer", "value_deserializer", "key_serializer", "value_serializer"),
        *("auto_offset_reset", "transactional_id", "kafka_client"),
    }
)
"""What is said by keys of the job, or is the business of the loop."""

_NUMBERS: Final = frozenset({"receive_buffer_bytes", "send_buffer_bytes"})
"""Of those whose default is None, which elsewhere stands for a text."""

_WORDS: Final = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": ("PLAIN", "GSSAPI", "OAUTHBEARER", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "isolation_level": ("read_uncommitted", "read_committed"),
    "compression_type": ("gzip", "snappy", "lz4", "zstd"),
}
"""Where the client would take any word, and never say that it knows none such."""

_HANGS_UP: Final = "socket disconnected"
"""What kafka-python says of a broker that closes the connection."""

_KNOWN: Final[Settings] = {
    **KafkaAdminClient.DEFAULT_CONFIG,
    **KafkaProducer.DEFAULT_CONFIG,
    **KafkaConsumer.DEFAULT_CONFIG,
}

if logging.getLogger("kafka").level == logging.NOTSET:
    # It logs an error for each refused connection; what comes of it is raised here, and said once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


class WrongSettingError(ValueError):
    """A setting of the client that can never work; `key` is its name."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(words)
        self.key = key


class RefusedError(SourceTrouble):
    """The broker is there, and does not let us in: it will not tomorrow either."""


def settings_of(brokers: Sequence[str], client: Mapping[str, str], io_timeout: float) -> Settings:
    """Give the settings that all clients of a job share. Raises: WrongSettingError.

    `client` is the job's own, in the words of the file.
    """
    timeout_ms = max(1, int(io_timeout * 1000))
    return {
        "bootstrap_servers": list(brokers),
        "bootstrap_timeout_ms": timeout_ms,
        "request_timeout_ms": timeout_ms,
        # An answer that is waited for must come before the request is given up.
        "fetch_max_wait_ms": min(500, timeout_ms // 2),
        # Its default is 30 s: after an outage nobody would come back in time.
        "reconnect_backoff_max_ms": 1000,
        **{key: _value(key, text) for key, text in client.items()},
    }


def opened(kind: type[Client], settings: Settings, **more: object) -> Client:
    """Make a client that is connected. Raises: SourceTrouble, WrongSettingError.

    Of `settings` it is given what it knows. One whose constructor fails would leave its thread and
    sockets behind, and go on connecting.
    """
    _knock(settings["bootstrap_servers"], settings["bootstrap_timeout_ms"] / 1000)
    made: list[_Network] = []

    def kept(**configs: object) -> _Network:
        made.append(_Network(**configs))
        return made[-1]

    known = {key: value for key, value in settings.items() if key in kind.DEFAULT_CONFIG}
    try:
        return kind(**known, **more, kafka_client=kept)
    except (KafkaError, OSError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        trouble = _why(error, settings, made)
        for one in made:
            one.close()
        raise trouble from error


def trouble_of(error: BaseException, brokers: Sequence[str]) -> SourceTrouble:
    """Say in one line what an error of a client means."""
    kind = RefusedError if is_wrong(error) else SourceTrouble
    return kind(f"{','.join(brokers)}: {words_of(error)}")


def is_wrong(error: BaseException) -> bool:
    """Tell whether an error is about who we are and what we may do, and not about the network."""
    return isinstance(
        error, AuthorizationError | SaslAuthenticationFailedError | UnsupportedSaslMechanismError
    )


def words_of(error: BaseException) -> str:
    """Give the words of an error in one line, without the codes that the client puts before."""
    words = " ".join(" ".join(map(str, error.args)).split())
    number, _, name = words.partition(" ")
    if number.isdecimal() and name.isupper():
        return os.strerror(int(number))  # "111 ECONNREFUSED"
    kind = type(error).__name__
    return words.removeprefix(f"{kind}: ") or kind


def ensure_dead(settings: Settings, topic: str) -> None:
    """Make a topic of dead letters, unless it is there or we may not. Raises: SourceTrouble.

    One partition keeps their order, and nothing is deleted by its age. Who may not make it must
    have one made; a broker that makes topics by itself gives them the retention of all others.
    """
    admin = opened(KafkaAdminClient, settings)
    try:
        if topic not in admin.list_topics():
            wanted = {"num_partitions": 1, "configs": {"retention.ms": "-1"}}
            admin.create_topics({topic: wanted}, wait_for_metadata=True)
    except (TopicAlreadyExistsError, AuthorizationError, PolicyViolationError):
        return
    except KafkaError as error:
        raise trouble_of(error, settings["bootstrap_servers"]) from error
    finally:
        admin.close()


def _knock(brokers: Sequence[str], io_timeout: float) -> None:
    """See that somebody listens at one of the brokers. Raises: SourceTrouble, at once.

    The client would try for its whole time, leave a socket behind at each attempt, and not say why.
    """
    found: dict[str, None] = {}
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), io_timeout).close()
        except OSError as error:
            found[error.strerror or "no answer in time"] = None
        else:
            return
    raise SourceTrouble(f"{','.join(brokers)}: {', '.join(found)}")


def _value(key: str, text: str) -> object:
    """Read the value of a setting as what its default is."""
    if key in _OURS:
        raise WrongSettingError(key, "is not the client's to say here; leave it out")
    if key not in _KNOWN:
        raise WrongSettingError(key, "is no setting of kafka-python")
    default = _KNOWN[key]
    word = text.strip()
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[word.lower()]
        if isinstance(default, int | float) or key in _NUMBERS:
            return float(word) if "." in word else int(word)
        if key == "api_version":
            return tuple(map(int, word.split(".")))
    except (ValueError, KeyError):
        form = "true or false" if isinstance(default, bool) else "a number"
        raise WrongSettingError(key, f"write {form}") from None
    if key in _WORDS and word not in _WORDS[key]:
        raise WrongSettingError(key, f"write {', '.join(_WORDS[key])}")
    if default is not None and not isinstance(default, str):
        raise WrongSettingError(key, "is an object of Python's, which no file can hold")
    return word


def _why(error: Exception, settings: Settings, made: Sequence[_Network]) -> Exception:
    """Give what to raise for a client that could not be made."""
    brokers = settings["bootstrap_servers"]
    if isinstance(error, KafkaTimeoutError):
        # It says no more than that; an attempt knows why.
        reason = next((one.reason for one in made if one.reason is not None), error)
        if isinstance(reason, KafkaConnectionError) and words_of(reason) == _HANGS_UP:
            is_sasl = str(settings.get("security_protocol")).startswith("SASL")
            what = "sasl_plain_password, sasl_mechanism, " if is_sasl else ""
            return SourceTrouble(f"{','.join(brokers)}: hangs up ({what}security_protocol?)")
        return trouble_of(reason, brokers)
    if isinstance(error, KafkaConfigurationError) or not isinstance(error, KafkaError | OSError):
        return WrongSettingError("ANY", words_of(error))
    return trouble_of(error, brokers)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # it has no types
    """Remembers why attempts to connect failed, which otherwise goes to a log only."""

    reason: BaseException | None = None

    def update_backoff(self, node_id: object) -> float:
        """Take in that an attempt failed; called where its error is handled."""
        reason = sys.exception()
        if reason is not None and _telling(reason) >= _telling(self.reason):
            self.reason = reason
        return float(super().update_backoff(node_id))


def _telling(reason: BaseException | None) -> int:
    """Tell how much an error says. A refusal may be lost: a hang-up follows it at once."""
    if reason is None or isinstance(reason, KafkaTimeoutError | RequestTimedOutError):
        return 0
    if is_wrong(reason):
        return 3
    return 1 if words_of(reason) == _HANGS_UP else 2


class _Network(KafkaNetClient):  # type: ignore[misc]  # it has no types
    """The connections of one client."""

    def __init__(self, **configs: object) -> None:
        net = NetworkSelector(**configs)
        self._told = _Manager(net, **configs)
        # A consumer takes this setting, and does not pass it on.
        creates = configs.get("allow_auto_create_topics", True)
        self._told.cluster.config["allow_auto_create_topics"] = creates
        super().__init__(net, self._told, **configs)

    @property
    def reason(self) -> BaseException | None:
        """Give why the last attempt to connect failed."""
        return self._told.reason


_producers: dict[str, KafkaProducer] = {}
_of_parents: list[dict[str, KafkaProducer]] = []
_process = os.getpid()
_lock = threading.Lock()


def producer(settings: Settings) -> KafkaProducer:
    """Give this process's producer; all its threads share it.

    Those that a parent had are kept and not used: without their threads they cannot even be closed.
    """
    global _process, _producers
    with _lock:
        if _process != os.getpid():
            _of_parents.append(_producers)
            _process, _producers = os.getpid(), {}
        name = repr(sorted(settings.items()))
        if name not in _producers:
            timeout_ms = settings["request_timeout_ms"]
            _producers[name] = opened(
                KafkaProducer,
                settings,
                max_block_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms,
            )
        return _producers[name]


def close_producers() -> None:
    """Close those of this process."""
    with _lock:
        if _process == os.getpid():
            while _producers:
                _producers.popitem()[1].close(1)


os.register_at_fork(after_in_child=lambda: _renew_lock())


def _renew_lock() -> None:
    """Give a child a lock that nobody holds."""
    global _lock
    _lock = threading.Lock()
