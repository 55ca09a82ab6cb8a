"""PM2's other words for a key, and why a key has no counterpart here."""

from __future__ import annotations

from typing import Final

OTHER_WORDS: Final = {
    "pm_exec_path": "script",
    "cmd": "script",
    "command": "script",
    "pm_cwd": "cwd",
    "exec_interpreter": "interpreter",
    "interpreterArgs": "interpreter_args",
    "node_args": "interpreter_args",
    "nodeArgs": "interpreter_args",
    "user": "uid",
    "error": "error_file",
    "err_file": "error_file",
    "err": "error_file",
    "err_log": "error_file",
    "output": "out_file",
    "out": "out_file",
    "out_log": "out_file",
    "log": "log_file",
    "combine_logs": "merge_logs",
    "cron": "cron_restart",
    "execMode": "exec_mode",
}

_DEVELOPMENT: Final = "nothing is restarted for a changed file; after a deploy: supervisor restart"
_ONE_LOG: Final = "one log for all processes, each line with its time, process and stream"

NOTES: Final = {
    "args": "PM2 leaves it out too where script holds a blank",
    "interpreter_args": "there is no interpreter where script holds a blank",
    "exec_mode": "no cluster mode; its processes are started as they are, so they share a port"
    " only with SO_REUSEPORT",
    "cron_restart": "no job is restarted by the clock; max_lifetime renews a process of that age",
    "watch": _DEVELOPMENT,
    "watch_delay": _DEVELOPMENT,
    "watch_options": _DEVELOPMENT,
    "ignore_watch": _DEVELOPMENT,
    "watch_ignore": _DEVELOPMENT,
    "treekill": "always so here: a process takes what it has started with it",
    "wait_ready": "PM2's message goes over a pipe of node; `notify = true` waits for READY=1 at"
    " NOTIFY_SOCKET",
    "instance_var": "processes of a job do not know their number; make a job for each",
    "increment_var": "processes of a job do not know their number; make a job for each",
    "merge_logs": _ONE_LOG,
    "log_date_format": _ONE_LOG,
    "log_type": "log_format of [supervisor]: json or text",
    "time": _ONE_LOG,
    "disable_logs": "output is never thrown away; it is in the log",
    "pid_file": "`supervisor status --json` shows pids",
    "pid": "`supervisor status --json` shows pids",
    "append_env_to_name": "the name of a job is the same everywhere",
    "source_map_support": "write interpreter arguments into the command: --enable-source-maps",
    "disable_source_map_support": "nothing is added to the command here",
    "shutdown_with_message": "a stop is a signal; see stop_signal",
    "force": "two jobs may run the same script here",
    "vizion": "versions of the code are not looked at",
    "automation": "there is no agent",
    "pmx": "there is no agent",
    "trace": "there is no agent",
    "autostart": "processes = 0 keeps a job stopped, `supervisor scale NAME=1` starts it",
    "filter_env": "inherit_environment = false begins with an almost empty environment",
    "post_update": "deploying is not done here",
    "deploy": "deploying is not done here",
    "port": "write it into env",
    "max": "no key of PM2",
}
"""Why a key is not taken over."""
