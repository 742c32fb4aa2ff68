"""Folders that keep bytes by key, for any number of processes."""

from typing import Any

from skpref._optional import import_optional


def open_cache(folder, purpose: str, extra: str) -> Any:
    """Open a cache in a folder, which is made where there is none.

    Parameters
    ----------
    folder : str or path-like
        Where the one database of the cache is.
    purpose : str
        What needs diskcache, to begin the message with where that is not installed.
    extra : str
        Extra of skpref that installs it.

    Returns
    -------
    diskcache.Cache
        Dictionary-like; gives values that are bytes, and None for any other.
    """
    diskcache = import_optional("diskcache", purpose, extra)

    class BytesDisk(diskcache.Disk):  # type: ignore[name-defined]
        """Gives no value other than bytes, so that none is unpickled."""

        def fetch(self, mode, filename, value, read):  # noqa: ARG002
            return value if isinstance(value, bytes) else None

    # Nothing is ever evicted, and everything is in the one database.
    return diskcache.Cache(
        folder, disk=BytesDisk, eviction_policy="none", cull_limit=0, disk_min_file_size=2**30
    )
