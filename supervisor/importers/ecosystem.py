"""PM2's ecosystem.json to a draft: an object with `apps`, or a list of them.

Source: pm2.keymetrics.io/docs/usage/application-declaration and PM2's lib/API/schema.json. Times
are milliseconds, or text like "3s". A key that says nothing here is told with its reason.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from supervisor.errors import ConfigError, Problem, configuration_fault
from supervisor.importers import commands
from supervisor.importers.draft import MARKS, Draft, Names, Section
from supervisor.importers.ecosystem_keys import NOTES, OTHER_WORDS
from supervisor.importers.supervisord_text import File
from supervisor.values import show_duration

_INTERPRETERS: Final = {
    ".js": "node",
    ".cjs": "node",
    ".mjs": "node",
    ".py": "python3",
    ".sh": "bash",
    ".rb": "ruby",
    ".pl": "perl",
    ".php": "php",
    ".ts": "bun",
    ".coffee": "coffee",
}
"""Who runs a script of that ending. Source: PM2's lib/API/interpreter.json."""

_UNITS_MS: Final = {"h": 3_600_000.0, "m": 60_000.0, "s": 1000.0}
_SIZES: Final = {"K": "KB", "M": "MB", "G": "GB"}
_LONGEST_BACKOFF_MS: Final = 15_000.0
_UNWRITABLE: Final = re.compile(f"[\ud800-\udfff{MARKS}]")
_MOST: Final = 4096


def translate(main: File, *, processors: int) -> Draft:
    """Read an ecosystem.json; `processors` is what "max" instances are.

    Raises: ConfigError, with every app that is wrong.
    """
    draft = Draft()
    top = draft.section()
    top.note(f"Imported from {main.shown}, a configuration of PM2.")
    top.note(
        "Differences from PM2 that are worth knowing: there is no cluster mode, processes that"
        " listen on the same port need SO_REUSEPORT; a stop signal is repeated each second; a"
        " process is FATAL after max_failures failures within failure_window, and tried again"
        " after fatal_retry."
    )
    defaults = draft.section("daemon")
    defaults.note("What PM2 does unless it is told otherwise, where we do otherwise.")
    defaults.key("stop_signal", "INT")
    defaults.key("stop_timeout", "1600ms")
    defaults.key("stable_after", "1s")
    defaults.key("max_failures", 16)
    names, problems = Names(), []
    for position, app in enumerate(_apps(main, top)):
        try:
            _App(app, position, main, draft, names, processors)
        except ValueError as fault:
            name = app.get("name", f"number {position + 1}")
            problems.append(Problem(main.shown, 0, "", "", f"app {name}: {fault}"))
    if problems:
        raise ConfigError(*problems)
    return draft


def _apps(main: File, top: Section) -> list[dict[str, object]]:
    """Give the apps of a file, and tell what else is in it."""
    try:
        found = json.loads(main.text)
    except json.JSONDecodeError as error:
        message = f"no JSON: {error.msg}, column {error.colno}"
        raise configuration_fault(main.shown, message, line=error.lineno) from None
    except RecursionError:
        raise configuration_fault(main.shown, "JSON that is nested too deep") from None
    if _UNWRITABLE.search(json.dumps(found, ensure_ascii=False)):
        raise configuration_fault(main.shown, "a character that no configuration holds")
    apps = found
    if isinstance(found, dict):
        if "apps" in found or "script" not in found:
            apps = found.get("apps")
            for key in [key for key in found if key != "apps"]:
                top.lost(key, "...", os.path.basename(main.shown), NOTES.get(key, _UNKNOWN))
        apps = [apps] if isinstance(apps, dict) else apps
        apps = [found] if "script" in found and "apps" not in found else apps
    if not isinstance(apps, list) or not apps or not all(isinstance(app, dict) for app in apps):
        raise configuration_fault(main.shown, 'not PM2\'s; {"apps": [{"script": ...}]} is expected')
    return apps


_UNKNOWN: Final = "no key of PM2"


class _App:
    """One app on its way to a job. Raises: ValueError when it is wrong."""

    def __init__(
        self,
        app: Mapping[str, object],
        position: int,
        main: File,
        draft: Draft,
        names: Names,
        processors: int,
    ) -> None:
        self._app = {OTHER_WORDS.get(key, key): value for key, value in app.items()}
        self._is_dump = "pm_exec_path" in app  # there it is the path of a file
        self._used: set[str] = set()
        self._place = f"{os.path.basename(main.shown)}, app {position + 1}"
        self._folder = os.path.join(main.folder, self._text("cwd") or "")
        script = self._text("script")
        if not script:
            raise ValueError("script is missing")
        name = self._text("name") or os.path.splitext(os.path.basename(script))[0]
        group = self._text("namespace")
        wanted = f"{group}.{name}" if group and group != "default" else name
        self._job = draft.section(f"daemon:{names.take(wanted)}")
        if self._job.name != f"daemon:{name}":
            self._job.note(f"was {name}" + (f" in namespace {group}" if wanted != name else ""))
        self._job.key("type", "program")
        self._job.key("command", self._command(script))
        self._job.key("directory", os.path.normpath(self._folder))
        self._processes(processors)
        self._place_and_rights()
        self._life()
        self._output()
        for key in [key for key in self._app if key not in self._used]:
            self._lost(key)

    # Values

    def _get(self, key: str) -> object:
        self._used.add(key)
        return self._app.get(key)

    def _text(self, key: str) -> str | None:
        """Give a text; numbers are written as one."""
        value = self._get(key)
        if value is None or isinstance(value, bool | dict | list):
            if value in (None, False):
                return None
            raise ValueError(f"{key} is no text")
        return str(value)

    def _boolean(self, key: str, default: bool) -> bool:
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{key} is neither true nor false")
        return value

    def _words(self, key: str) -> list[str]:
        """Give arguments: a list as it is, a text as a shell splits it."""
        value = self._get(key)
        if isinstance(value, list):
            return [str(word) for word in value]
        return shlex.split(str(value)) if value else []

    def _duration_ms(self, key: str) -> float | None:
        """Give a time in milliseconds: a number of them, or text like "3s"."""
        value = self._get(key)
        if value is None:
            return None
        text = str(value)
        try:
            number = float(text) if text[-1:] not in _UNITS_MS else float(text[:-1])
        except ValueError:
            raise ValueError(f"{key}: {text!r} is no time; write 1600 (ms) or 3s") from None
        number *= _UNITS_MS.get(text[-1:], 1.0)
        if not 0 <= number <= 366 * 24 * _UNITS_MS["h"]:
            raise ValueError(f"{key}: {text!r} is no time; write 1600 (ms) or 3s")
        return number

    def _lost(self, key: str, reason: str | None = None) -> None:
        value = self._app[key]
        shown = value if isinstance(value, str) else json.dumps(value)
        why = reason or NOTES.get(key, _UNKNOWN)
        if key.startswith("env"):
            shown, why = "***", "one environment a file: make a file for each, or use env_file"
        self._job.lost(key, shown, self._place, why)

    # Keys

    def _command(self, script: str) -> str:
        """Give the command: interpreter, its arguments, script, arguments.

        A script with a blank in it is a line for a shell. Source: PM2's lib/Common.js, verifyConfs.
        """
        interpreter = self._text("interpreter")
        if " " in script and interpreter in (None, "none") and not self._is_dump:
            return commands.of_shell(script)
        ending = os.path.splitext(script)[1]
        if interpreter is None:
            interpreter = _INTERPRETERS.get(ending, "none")
        words = [*self._words("interpreter_args"), script, *self._words("args")]
        if interpreter != "none":
            words = [interpreter, *words]
        if any(mark in word for word in words for mark in "\n\r\0"):
            raise ValueError("an argument holds a line end")
        return shlex.join(words)

    def _processes(self, processors: int) -> None:
        value = self._get("instances")
        if self._get("exec_mode") in ("cluster", "cluster_mode"):
            self._lost("exec_mode")
        if value is None:
            return
        if value in ("max", 0, "0"):
            count = processors
        else:
            try:
                count = int(str(value))
            except ValueError:
                raise ValueError(f"instances: {value!r} is no number") from None
            count = count if count > 0 else max(1, processors + count)
        if count > _MOST:
            raise ValueError(f"instances: {value!r} is more than {_MOST}")
        if str(value) != str(count):
            self._job.note(f"instances = {value}: this machine has {processors} processors")
        self._job.key("processes", count)

    def _place_and_rights(self) -> None:
        for key, ours in (("uid", "user"), ("gid", "group")):
            if (value := self._text(key)) is not None:
                self._job.key(ours, value)
        env = self._get("env")
        if env is not None and not isinstance(env, dict):
            raise ValueError("env is no object")
        self._job.environment(dict(_variables(env or {})))

    def _life(self) -> None:
        """Translate how an app is started again, and how it is stopped."""
        codes = self._get("stop_exit_codes")
        if not self._boolean("autorestart", True):
            self._job.key("restart", "never")
        elif codes is not None:
            wanted = codes if isinstance(codes, list) else [codes]
            self._job.key("restart", "on-failure")
            self._job.key("expected_exits", ", ".join(dict.fromkeys(map(str, wanted))))
        for key, ours in (
            ("min_uptime", "stable_after"),
            ("kill_timeout", "stop_timeout"),
            ("listen_timeout", "ready_timeout"),
        ):
            if (time := self._duration_ms(key)) is not None:
                self._job.key(ours, show_duration(time / 1000))
        if (failures := self._text("max_restarts")) is not None:
            self._job.key("max_failures", failures)
        self._backoff()
        memory = self._text("max_memory_restart")
        if memory is not None:
            self._job.key("max_memory", memory[:-1] + _SIZES.get(memory[-1:].upper(), memory[-1:]))
        if not self._boolean("treekill", True):
            self._lost("treekill")
        if self._boolean("wait_ready", False):
            self._lost("wait_ready")

    def _backoff(self) -> None:
        delay = self._duration_ms("restart_delay")
        growing = self._duration_ms("exp_backoff_restart_delay")
        if delay is None and growing is None:
            return
        first = delay if growing is None else growing
        most = max(first or 0.0, 0.001 if growing is None else _LONGEST_BACKOFF_MS)
        self._job.key("backoff", show_duration((first or 0.0) / 1000))
        self._job.key("backoff_max", show_duration(max(most, 1.0) / 1000))

    def _output(self) -> None:
        out, err = self._text("out_file"), self._text("error_file")
        both = self._text("log_file")
        path = both or out or err
        if path and path not in ("/dev/null", "NULL", "/dev/stdout", "/dev/stderr"):
            self._job.key("log_file", os.path.normpath(os.path.join(self._folder, path)))
        for key in ("log_file", "out_file", "error_file"):
            if self._app.get(key) not in (None, path):
                self._lost(key, "stdout and stderr share one log, each line marked")


def _variables(env: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in env.items():
        if isinstance(value, str):
            yield name, value
        elif value is not None:
            yield name, json.dumps(value)
