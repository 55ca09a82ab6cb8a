"""What supervisord's keys without a counterpart become: a comment, with one of these reasons."""

from __future__ import annotations

from typing import Final

_ALWAYS: Final = (
    "always so here: the stop signal goes to the process, then what is left of its group ends"
)
_SUPERVISORS: Final = "`supervisor logs` and `events -f` show it; there is no event protocol"

PROGRAM_NOTES: Final = {
    "priority": "here all start at once; depends_on says what waits for what",
    "process_name": "its processes are NAME:0, NAME:1 and so on",
    "numprocs_start": "processes are counted from 0",
    "stopasgroup": _ALWAYS,
    "killasgroup": "always so here: KILL goes to the whole group",
    "stderr": "stdout and stderr share one log, each line is marked with its stream",
    "stdout_capture_maxbytes": _SUPERVISORS,
    "stderr_capture_maxbytes": _SUPERVISORS,
    "stdout_events_enabled": _SUPERVISORS,
    "stderr_events_enabled": _SUPERVISORS,
    "stdout_syslog": "goes to the supervisor's log, so to the journal",
    "stderr_syslog": "goes to the supervisor's log, so to the journal",
    "stderr_logfile_maxbytes": "stdout and stderr share one log",
    "stderr_logfile_backups": "stdout and stderr share one log",
    "serverurl": "a job needs no address of its supervisor",
}
"""Why a key of a program is not taken over."""

ALWAYS_SO: Final = frozenset(("stopasgroup", "killasgroup", "nodaemon", "process_name"))
"""Those of them (and of [supervisord]) with which nothing is lost."""

SUPERVISORD_NOTES: Final = {
    "pidfile": "the pid file is in run_dir",
    "nodaemon": "`start` runs in the foreground, `start --daemonize` in the background",
    "silent": "`start` prints its log only where log_file = -",
    "minfds": "LimitNOFILE= of the unit, or `ulimit -n` before the start",
    "minprocs": "TasksMax= of the unit, or `ulimit -u` before the start",
    "nocleanup": "no log is ever removed at a start",
    "childlogdir": "without a log_file of its own a job's output is in the supervisor's log",
    "strip_ansi": "log_format = json keeps lines whole, text escapes control characters",
    "identifier": "the name of a supervisor is its file's, or `name` in [supervisor]",
}
"""Why a key of [supervisord] is not taken over."""

ELSEWHERE: Final = {
    "supervisord": frozenset(
        (
            "logfile",
            "logfile_maxbytes",
            "logfile_backups",
            "loglevel",
            "directory",
            "umask",
            "user",
            "environment",
        )
    ),
    "unix_http_server": frozenset(("file", "chmod", "chown")),
    "include": frozenset(("files",)),
    "program": frozenset(
        (
            "command",
            "numprocs",
            "autostart",
            "autorestart",
            "startsecs",
            "startretries",
            "exitcodes",
            "stopsignal",
            "stopwaitsecs",
            "user",
            "umask",
            "directory",
            "environment",
            "redirect_stderr",
            "stdout_logfile",
            "stdout_logfile_maxbytes",
            "stdout_logfile_backups",
            "stderr_logfile",
        )
    ),
}
"""Sections that are translated, with the keys that are."""

SECTION_NOTES: Final = {
    "inet_http_server": "nothing here is controlled over TCP; [http] shows state, health and"
    " metrics there, and changes something only with its token",
    "supervisorctl": "every command takes --conf, and finds the supervisor by it",
    "rpcinterface": "there is no XML-RPC; commands take --json",
    "ctlplugin": "the command line has no plugins",
    "eventlistener": "there is no event protocol: `supervisor events -f --json` prints every"
    " change of state as a line of JSON, max_memory does what memmon did, status --check what"
    " httpok did",
    "fcgi-program": "it wants its listening socket as descriptor 0, which a program does not"
    " get here; let it bind its own, or run it under its web server",
}
"""Why a section is not taken over."""
