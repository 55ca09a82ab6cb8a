"""A batch job that splits itself, and a task: a CSV file of `option.folder` comes into a database.

`import.start` counts the rows and leaves a message for each part; the processes load the parts side
by side; who finds all of them loaded has the report written, by a call that is made later.
"""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

from workers import Context, Message, Reject, publish, task

_TABLES = """
CREATE TABLE IF NOT EXISTS parts (file TEXT, first INTEGER, PRIMARY KEY (file, first));
CREATE TABLE IF NOT EXISTS rows (file TEXT, line INTEGER, name TEXT, amount REAL,
                                 PRIMARY KEY (file, line));
"""


def split(message: Message, context: Context) -> None:
    """Leave a message for each part of a file: `{"file"}`.

    Killed half way it runs again, and leaves some parts twice: a part has its place in the file for
    an id and its rows for keys, so the second time changes nothing.
    """
    path = _path(message, context)
    size = int(context.options["rows"])
    with path.open(newline="") as file:
        total = sum(1 for _ in csv.DictReader(file))
    for first in range(0, total, size):
        part = {"file": path.name, "first": first, "rows": size, "total": total}
        publish("import.part", part, id=f"{path.name}-{first}")
    context.logger.info("file split", extra={"file": path.name, "rows": total})


def load(message: Message, context: Context) -> None:
    """Load one part: `{"file", "first", "rows", "total"}`."""
    path, part = _path(message, context), message.data
    with path.open(newline="") as file:
        lines = enumerate(csv.DictReader(file))
        wanted = list(islice(lines, part["first"], part["first"] + part["rows"]))
    rows = [(path.name, line, row["name"], float(row["amount"])) for line, row in wanted]
    with closing(_database(path.parent)) as database, database:
        # The rows and the word that they are there are one transaction.
        database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", rows)
        done = "INSERT OR IGNORE INTO parts VALUES (?, ?)"
        database.execute(done, (path.name, part["first"]))
        count = "SELECT count(*) FROM rows WHERE file = ?"
        [loaded] = database.execute(count, (path.name,)).fetchone()
    context.progress(loaded, part["total"])
    if loaded == part["total"]:
        report.delay(str(path))


@task("report")
def report(path: str) -> None:
    """Write the sum beside the file."""
    source = Path(path)
    with closing(_database(source.parent)) as database:
        question = "SELECT count(*), sum(amount) FROM rows WHERE file = ?"
        rows, amount = database.execute(question, (source.name,)).fetchone()
    source.with_name(f"{source.name}.report").write_text(f"{rows} rows, {amount:.2f} in all\n")


def _path(message: Message, context: Context) -> Path:
    name = message.data.get("file") if isinstance(message.data, dict) else None
    path = Path(context.options["folder"], Path(str(name)).name).absolute()
    if not path.is_file():
        raise Reject(f"there is no file {name!r} in {path.parent}")
    return path


def _database(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "imports.db", timeout=30)
    database.executescript(_TABLES)
    return database
