"""Where the vectors of a namespace are kept, and how those of earlier versions get there."""

import sqlite3
from hashlib import sha256
from pathlib import Path

import numpy as np

from services.retrieval.adapters.vector_file import STORED, VectorFile

NAME_LENGTH = 32


def file_of(folder: Path, namespace: str) -> Path:
    """Return the file of a namespace, which may be called anything."""
    return folder / f"{sha256(namespace.encode()).hexdigest()[:NAME_LENGTH]}.f32"


def unpack(database: sqlite3.Connection, folder: Path, dimension: int) -> None:
    """Move the vectors of a database that still holds them into files, all of them or none."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(chunks)")}
    if "vector" not in columns:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("ALTER TABLE chunks ADD COLUMN place INTEGER NOT NULL DEFAULT 0")
        for (namespace,) in database.execute("SELECT DISTINCT namespace FROM chunks").fetchall():
            _unpack_one(database, namespace, VectorFile(file_of(folder, namespace), dimension))
        database.execute("ALTER TABLE chunks DROP COLUMN vector")
        database.commit()
    except BaseException:
        database.rollback()
        raise


def _unpack_one(database: sqlite3.Connection, namespace: str, file: VectorFile) -> None:
    rows = database.execute("SELECT key, vector FROM chunks WHERE namespace = ?", [namespace])
    keys, packed = zip(*rows.fetchall(), strict=True)
    vectors = np.frombuffer(b"".join(packed), STORED).reshape(len(keys), -1)
    file.write(range(len(keys)), vectors)
    database.executemany("UPDATE chunks SET place = ? WHERE key = ?", enumerate(keys))
