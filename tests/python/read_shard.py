"""Prints the rows of a shard as JSON: read_shard.py pyarrow|polars FILE."""

import json
import sys


def rows(library: str, path: str) -> list[dict]:
    if library == "pyarrow":
        import pyarrow.ipc

        return pyarrow.ipc.open_file(path).read_all().to_pylist()
    import polars

    frame = polars.read_ipc(path)
    return frame.to_dicts()


def plain(value):
    """Lists and numbers of the standard library for whatever the reader gave."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


json.dump([plain(row) for row in rows(sys.argv[1], sys.argv[2])], sys.stdout)
