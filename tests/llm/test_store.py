import os
import sqlite3
import subprocess
import sys

import pytest

from skpref._llm._store import CacheError, Store, StoreLocked


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, {})
    store.open()
    yield store
    store.close()


def test_what_is_put_is_there_for_others(store, tmp_path):
    store.put("a", b"1")
    other = Store(tmp_path, {})
    other.open()
    assert other.get("a") == b"1"
    assert other.get("b") is None
    other.discard("a")
    assert store.get("a") is None
    other.close()


def test_a_question_is_claimed_by_one_process_at_a_time(store, tmp_path):
    other = Store(tmp_path, {})
    other.open()
    assert store.claim("a")
    assert not other.claim("a")
    store.release("a")
    assert other.claim("a")
    other.put("a", b"1")
    assert not store.claim("a")
    assert store.get("a") == b"1"
    assert other.claim("b")
    other.close()
    assert store.claim("b")


@pytest.mark.slow
def test_the_claim_of_a_process_that_was_killed_is_void(store, tmp_path):
    script = (
        "import os, signal, sys\nfrom skpref._llm._store import Store\n"
        "store = Store(sys.argv[1], {})\nstore.open()\nassert store.claim('a')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with sqlite3.connect(tmp_path / "cache.db") as database:
        assert database.execute("SELECT count(*) FROM Claims").fetchall() == [(1,)]
    database.close()
    assert store.claim("a")


def test_a_claim_without_a_sign_of_life_ends(store, tmp_path, monkeypatch):
    other = Store(tmp_path, {})
    other.open()
    assert other.claim("a")
    store._run("UPDATE Claims SET until = 0")
    assert store.claim("a")
    store._run("UPDATE Claims SET until = 1")
    store.renew()
    assert not other.claim("a")
    other.close()


def test_a_damaged_file_is_named_with_a_remedy(tmp_path):
    (tmp_path / "cache.db").write_bytes(b"no database " * 900)
    with pytest.raises(CacheError, match=rf"cache='{tmp_path}' is damaged.*Move .*cache.db away"):
        Store(tmp_path, {}).open()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(CacheError, match=f"cache='{path}' cannot be made or written"):
        Store(path, {}).open()


def test_a_lock_is_reported_at_once_and_then_written(store, tmp_path):
    other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked):
        store.put("a", b"1")
    assert store.get("a") == b"1"  # not lost meanwhile
    other.execute("ROLLBACK")
    other.close()
    store.put("a", b"1")
    assert store.unsaved == {}


def test_a_full_disk_keeps_the_answer_in_memory_until_there_is_room(tmp_path):
    unsaved = {}
    store = Store(tmp_path, unsaved)
    store.open()
    store.put("a", b"1")
    pages = store._run("PRAGMA page_count")[0][0]
    store._run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CacheError, match=rf"cache='{tmp_path}' cannot be used .*full.*Free space"):
        store.put("b", os.urandom(100_000))
    assert set(unsaved) == {"b"}
    assert store.get("b") == unsaved["b"]
    assert store.get("a") == b"1"
    store.close()
    store = Store(tmp_path, unsaved)
    store.open()
    assert unsaved == {}
    assert len(store.get("b")) == 100_000
    store.close()


def test_a_cache_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    store = Store(tmp_path, {})
    store.open()
    store.put("a", b"1")
    original = Store._create_tables

    def refuse(self):
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    monkeypatch.setattr(Store, "_create_tables", refuse)
    reader = Store(tmp_path, {})
    reader.open()
    monkeypatch.setattr(Store, "_create_tables", original)
    assert reader.get("a") == b"1"
    with pytest.raises(CacheError, match=rf"cache='{tmp_path}' cannot be written .*readonly"):
        reader.claim("b")
    reader.close()
    store.close()


def test_no_double_quoted_strings_are_used(tmp_path):
    if not hasattr(sqlite3.Connection, "setconfig"):
        pytest.skip("needs Python 3.12 to switch them off")
    store = Store(tmp_path, {})
    store.open()
    for option in (sqlite3.SQLITE_DBCONFIG_DQS_DDL, sqlite3.SQLITE_DBCONFIG_DQS_DML):
        store._database.setconfig(option, False)
    assert store.claim("a")
    store.put("a", b"1")
    store.renew()
    assert store.get("a") == b"1"
    store.close()
