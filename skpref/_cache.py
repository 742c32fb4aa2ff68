"""Folders that keep bytes by key, shared by any number of processes."""

from typing import Any

from skpref._optional import import_optional


def open_cache(folder, purpose: str, extra: str) -> Any:
    """Open a cache in a folder, which is made if it does not exist.

    Parameters
    ----------
    folder : str or path-like
        Folder of the database.
    purpose : str
        The part of skpref that needs diskcache; begins the message if that is not installed.
    extra : str
        Extra of skpref that installs it.

    Returns
    -------
    diskcache.Cache
        Dictionary-like; returns values that are bytes, and None for any other.
    """
    diskcache = import_optional("diskcache", purpose, extra)

    class BytesDisk(diskcache.Disk):  # type: ignore[name-defined]
        """Returns only values that are bytes, so that none is unpickled."""

        def fetch(self, mode, filename, value, read):  # noqa: ARG002
            return value if isinstance(value, bytes) else None

    # Nothing is ever evicted, and everything is in the one database.
    return diskcache.Cache(
        folder, disk=BytesDisk, eviction_policy="none", cull_limit=0, disk_min_file_size=2**30
    )
