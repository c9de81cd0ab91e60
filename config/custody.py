"""Custody's name: from a run to the key in Redis of what its workers have in hand; producers look, workers write."""

#: One hash for each run. A field is a chunk's id, its value `holder deaths until`, `until` by the server's clock.
CUSTODY_PREFIX = "pixelherd:custody:"


def custody_key(run_id: str) -> str:
    """The hash of a run's chunks in hand."""
    return CUSTODY_PREFIX + run_id
