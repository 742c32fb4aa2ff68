"""The folder of answers: one SQLite database that any number of processes share."""

import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_IS_ENTRY = "key = ? AND typeof(value) = 'blob'"
_CLAIM = 60.0  # seconds that a claim lasts without a sign of life


class StoreLocked(Exception):
    """Another process is writing; try again soon."""


class CacheError(OSError):
    """The folder of the cache cannot be used as it is."""


class Batch(NamedTuple):
    """A batch of requests that is under way; its id is None until that is known."""

    name: str
    identity: str
    file: str
    batch: str | None
    keys: frozenset[str]


class Store:
    """Keeps answers by key, and which process is asking for one.

    Parameters
    ----------
    folder : str or path-like
        The folder, which is made if it does not exist.
    unsaved : dict
        Answers that could not be written before, by key. They are written when that works again.
    """

    def __init__(self, folder, unsaved: dict[str, bytes]):
        self.folder = os.fspath(folder)
        self.unsaved = unsaved
        self.writable = True
        self._problem = ""
        self._copy: str | None = None
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}"
        self._path = Path(self.folder) / "cache.db"
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database, only to read if it cannot be written.

        Raises
        ------
        StoreLocked
            If another process has locked it.
        CacheError
            If it can be neither read nor written.
        """
        if self._database is not None:
            self.close()
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            self._database = _connect(self._path)
            self._create_tables()
        except (sqlite3.Error, OSError) as error:
            self._raise_if_hopeless(error)
            self._open_copy(error)
        with suppress(CacheError):
            for key, value in list(self.unsaved.items()):
                self.put(key, value)

    def _create_tables(self) -> None:
        tables = {row[0] for row in self._run("SELECT name FROM sqlite_master")}
        if "Cache" not in tables:
            self._run("PRAGMA journal_mode = WAL")
            self._run("CREATE TABLE IF NOT EXISTS Cache (key TEXT UNIQUE, value BLOB)")
        if "Claims" not in tables:
            columns = "key TEXT PRIMARY KEY, owner TEXT, until REAL"
            self._run(f"CREATE TABLE IF NOT EXISTS Claims ({columns})")
        if "Batches" not in tables:
            columns = "name TEXT PRIMARY KEY, identity TEXT, file TEXT, batch TEXT, keys BLOB"
            self._run(f"CREATE TABLE IF NOT EXISTS Batches ({columns})")

    def _raise_if_hopeless(self, error: Exception) -> None:
        code = _code(error)
        if code in _LOCKED:
            self.close()
            raise StoreLocked from None
        if code in _DAMAGED:
            self.close()
            raise CacheError(
                f"cache={self.folder!r} is damaged ({error}). Move {self._path} away, or pass "
                "another folder."
            ) from None
        if not self._path.exists():
            raise CacheError(
                f"cache={self.folder!r} cannot be made or written ({error}). Pass a folder that "
                "can be written."
            ) from None

    def _open_copy(self, error: Exception) -> None:
        """Read from a copy, since SQLite writes even to read."""
        self.close()
        self.writable, self._problem = False, str(error)
        try:
            self._copy = tempfile.mkdtemp(prefix="skpref-")
            for name in ("cache.db", "cache.db-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(self._path.with_name(name), Path(self._copy) / name)
            self._database = _connect(Path(self._copy) / "cache.db")
            self._run("SELECT key FROM Cache LIMIT 1")
        except (sqlite3.Error, OSError) as second:
            self.close()
            raise CacheError(
                f"cache={self.folder!r} can be neither written ({error}) nor read ({second}). "
                "Pass another folder."
            ) from None

    def _run(self, statement: str, values=()) -> list:
        assert self._database is not None
        return self._database.execute(statement, values).fetchall()

    def get(self, key: str) -> bytes | None:
        """Return an answer.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        bytes or None
            The answer, None if there is none.
        """
        if key in self.unsaved:
            return self.unsaved[key]
        try:
            rows = self._run(f"SELECT value FROM Cache WHERE {_IS_ENTRY}", (key,))
        except sqlite3.Error as error:
            raise self._translate(error) from None
        return rows[0][0] if rows else None

    def keys(self) -> set[str]:
        """Return the keys of all answers.

        Returns
        -------
        set of str
            The keys.
        """
        try:
            rows = self._run("SELECT key FROM Cache WHERE typeof(value) = 'blob'")
        except sqlite3.Error as error:
            raise self._translate(error) from None
        return {*self.unsaved, *(key for (key,) in rows)}

    def batches(self, identity: str) -> list[Batch]:
        """Return the batches that are under way at an endpoint.

        Parameters
        ----------
        identity : str
            Who answers.

        Returns
        -------
        list of Batch
            The batches.
        """
        try:
            rows = self._run("SELECT * FROM Batches WHERE identity = ?", (identity,))
        except sqlite3.Error as error:
            raise self._translate(error) from None
        return [
            Batch(name, whose, file, batch, frozenset(zlib.decompress(keys).decode().split()))
            for name, whose, file, batch, keys in rows
        ]

    def add_batch(self, batch: Batch) -> None:
        """Note a batch, before it is made.

        Parameters
        ----------
        batch : Batch
            The batch.
        """
        keys = zlib.compress(" ".join(sorted(batch.keys)).encode())
        with self._transaction():
            self._run("INSERT INTO Batches VALUES (?, ?, ?, ?, ?)", (*batch[:4], keys))

    def note_batch(self, name: str, batch: str) -> None:
        """Note the id of a batch.

        Parameters
        ----------
        name : str
            Its name in the cache.
        batch : str
            Its id at the endpoint.
        """
        with self._transaction():
            self._run("UPDATE Batches SET batch = ? WHERE name = ?", (batch, name))

    def remove_batch(self, name: str) -> None:
        """Remove a batch whose results are kept.

        Parameters
        ----------
        name : str
            Its name in the cache.
        """
        with self._transaction():
            self._run("DELETE FROM Batches WHERE name = ?", (name,))

    def claim(self, key: str, seconds: float = _CLAIM) -> bool:
        """Claim a question for this process, so that no other asks it at the same time.

        Parameters
        ----------
        key : str
            Key of the answer.
        seconds : float, default=60
            How long the claim lasts without a sign of life.

        Returns
        -------
        bool
            Whether this process is to ask; False if another one does, or has.
        """
        if not self.writable:
            raise CacheError(
                f"cache={self.folder!r} cannot be written ({self._problem}), so further answers "
                "would be paid and lost. Make it writable, free space, or pass a copy of it."
            )
        with self._transaction():
            if self._run(f"SELECT 1 FROM Cache WHERE {_IS_ENTRY}", (key,)):
                return False
            rows = self._run("SELECT owner, until FROM Claims WHERE key = ?", (key,))
            if rows and rows[0][0] != self._owner and _is_alive(*rows[0]):
                return False
            values = key, self._owner, time.time() + seconds
            self._run("INSERT OR REPLACE INTO Claims VALUES (?, ?, ?)", values)
        return True

    def put(self, key: str, value: bytes) -> None:
        """Keep an answer, and release the claim.

        Parameters
        ----------
        key : str
            Its key.
        value : bytes
            The answer.
        """
        self.unsaved[key] = value  # until it is written
        if not self.writable:
            return
        try:
            self._write(key, value)
        except CacheError:
            # The log of SQLite may be what fills the disk.
            with suppress(sqlite3.Error):
                self._run("PRAGMA wal_checkpoint(TRUNCATE)")
            self._write(key, value)
        del self.unsaved[key]

    def _write(self, key: str, value: bytes) -> None:
        with self._transaction():
            self._run("DELETE FROM Cache WHERE key = ?", (key,))
            self._run("INSERT INTO Cache (key, value) VALUES (?, ?)", (key, value))
            self._run("DELETE FROM Claims WHERE key = ?", (key,))

    def discard(self, key: str) -> None:
        """Remove an entry that is damaged.

        Parameters
        ----------
        key : str
            Its key.
        """
        self.unsaved.pop(key, None)
        if self.writable:
            with self._transaction():
                self._run("DELETE FROM Cache WHERE key = ?", (key,))

    def release(self, key: str) -> None:
        """Give up a claim.

        Parameters
        ----------
        key : str
            Key of the answer.
        """
        with self._transaction():
            self._run("DELETE FROM Claims WHERE key = ?", (key,))

    def renew(self) -> None:
        """Show other processes that the claims of this one are alive."""
        if self.writable:
            values = time.time() + _CLAIM, self._owner
            with self._transaction():
                self._run("UPDATE Claims SET until = ? WHERE owner = ?", values)

    def close(self) -> None:
        """Close the database and release all claims."""
        if self._database is not None:
            if self.writable:
                with suppress(sqlite3.Error):
                    self._run("DELETE FROM Claims WHERE owner = ?", (self._owner,))
            self._database.close()
            self._database = None
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    def _transaction(self) -> "_Transaction":
        assert self._database is not None
        return _Transaction(self._database, self._translate)

    def _translate(self, error: sqlite3.Error) -> Exception:
        """Return what to raise for an error of SQLite."""
        code = _code(error)
        if code in _LOCKED:
            return StoreLocked()
        remedy = "Free space" if code == sqlite3.SQLITE_FULL else "Make it writable"
        if code in _DAMAGED:
            remedy = f"Move {self._path} away"
        return CacheError(
            f"cache={self.folder!r} cannot be used ({error}). {remedy}, or pass another folder; "
            "the labeler keeps what could not be written and writes it in its next call."
        )


class _Transaction:
    """A transaction that is undone by any exception."""

    def __init__(self, database: sqlite3.Connection, translate):
        self._database = database
        self._translate = translate

    def __enter__(self):
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._translate(error) from None

    def __exit__(self, kind, error, traceback):
        try:
            self._database.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failed:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if error is None:
                raise self._translate(failed) from None
        if isinstance(error, sqlite3.Error):
            raise self._translate(error) from None


def _connect(path: Path) -> sqlite3.Connection:
    # Waits for locks are made by the caller, who can be interrupted meanwhile.
    database = sqlite3.connect(path, timeout=0.05, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA wal_autocheckpoint = 100")  # pages: the log stays small
    return database


def _code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _is_alive(owner: str, until: float) -> bool:
    """Return whether the process that claimed a question may still be asking it."""
    if time.time() > until:
        return False
    host, pid, _ = owner.split("/")
    if host != socket.gethostname() or sys.platform == "win32":
        return True
    try:
        os.kill(int(pid), 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def find_store(folder) -> Store | None:
    """Open a cache to look into it, if there is one.

    Parameters
    ----------
    folder : str, path-like or None
        The folder of the cache.

    Returns
    -------
    Store or None
        The cache, opened; None if nothing is kept yet.
    """
    if folder is None or not (Path(folder) / "cache.db").exists():
        return None
    store = Store(folder, {})
    store.open()
    return store
