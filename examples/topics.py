"""Handlers of one's own for five topics; what a provider would be given lies in `option.folder`."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

from workers import Context, Message, Reject, Skip


def send_email(message: Message, context: Context) -> None:
    """Write a mail to the outbox: `{"to", "subject", "content"}`."""
    to, subject, content = _needed(message, "to", "subject", "content")
    mail = EmailMessage()
    try:
        mail["To"], mail["Subject"], mail["Message-ID"] = to, subject, f"<{message.id}@topics>"
    except ValueError as error:
        raise Reject(f"no mail can be made of it: {error}") from error
    mail.set_content(content)
    _put(_folder(context, "outbox") / f"{_name(message.id)}.eml", mail.as_bytes())
    context.logger.info("mail sent", extra={"to": to, "subject": subject})


def send_sms(message: Message, context: Context) -> None:
    """Give a text to the provider: `{"phone", "content"}`."""
    phone, content = _needed(message, "phone", "content")
    if not phone.removeprefix("+").isdigit():
        raise Reject(f"{phone!r} is no number")
    _give(message, context, "sms", {"phone": phone, "content": content})


def push(message: Message, context: Context) -> None:
    """Give a notification to the provider: `{"user_id", "title", "body"}`."""
    user_id, title, body = _needed(message, "user_id", "title", "body")
    _give(message, context, "push", {"user_id": user_id, "title": title, "body": body})


def process_file(message: Message, context: Context) -> None:
    """Compress a file of the folder, or write down its hash: `{"file_id", "process_type"}`."""
    file_id, process_type = _needed(message, "file_id", "process_type")
    path = _folder(context, "files") / _name(file_id)
    if not path.is_file():
        raise Skip(f"there is no file {file_id}")
    content = path.read_bytes()
    if process_type == "gzip":
        _put(path.with_name(f"{path.name}.gz"), gzip.compress(content, mtime=0))
    elif process_type == "sha256":
        _put(path.with_name(f"{path.name}.sha256"), hashlib.sha256(content).hexdigest().encode())
    else:
        raise Reject(f"no such work: {process_type}; there is gzip and sha256")
    context.logger.info("file processed", extra={"file_id": file_id, "how": process_type})


class Synchroniser:
    """Copies what is new of one folder to another; a class, to show the three calls of one."""

    def open(self, context: Context) -> None:
        """Do once a process what all calls share."""
        self.root = _folder(context, "data")

    def handle(self, message: Message, context: Context) -> None:
        """Bring a folder up to date: `{"sync_type", "source", "target"}`."""
        sync_type, source, target = _needed(message, "sync_type", "source", "target")
        if sync_type not in ("full", "incremental"):
            raise Reject(f"no such sync: {sync_type}; there is full and incremental")
        there, copied = self.root / _name(target), 0
        there.mkdir(exist_ok=True)
        files = sorted(path for path in (self.root / _name(source)).glob("*") if path.is_file())
        for number, path in enumerate(files, 1):
            twin = there / path.name
            is_new = not twin.exists() or twin.stat().st_mtime_ns < path.stat().st_mtime_ns
            if is_new or sync_type == "full":
                shutil.copy2(path, twin)
                copied += 1
            context.progress(number, len(files))
        context.logger.info("synchronised", extra={"source": source, "copied": copied})

    def close(self) -> None:
        """Let go of what `open` has taken; here there is nothing."""


def unknown(message: Message, context: Context) -> None:
    """Say that nobody knows what to do with a topic."""
    context.logger.warning("unhandled message", extra={"topic": message.topic})


def _needed(message: Message, *names: str) -> list[str]:
    """Give the fields that the message cannot do without, as text."""
    data = message.data if isinstance(message.data, Mapping) else {}
    if missing := [name for name in names if data.get(name) in (None, "")]:
        raise Reject(f"{message.topic} needs {', '.join(missing)}")
    return [str(data[name]) for name in names]


def _name(given: str) -> str:
    """Refuse what would lead out of its folder."""
    if "/" in given or "\0" in given or given in (".", ".."):
        raise Reject(f"{given!r} is no name of a file")
    return given


def _folder(context: Context, name: str) -> Path:
    folder = Path(context.options.get("folder", "var")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _give(message: Message, context: Context, provider: str, order: Mapping[str, str]) -> None:
    text = json.dumps({"id": message.id, **order}, ensure_ascii=False)
    _put(_folder(context, provider) / f"{_name(message.id)}.json", text.encode())
    context.logger.info("given to the provider", extra={"provider": provider})


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a second delivery finds it, or writes the same."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.rename(path)
