"""Checkpoint: what training has changed, and the story so far, as the bytes of one object; and back, running no code.

The bytes are NumPy's .npz: an array for each name, and `story`, which is JSON.
"""

import io
import json
import zipfile
from typing import Any

import numpy as np

from config.errors import ContractError
from workers.cnn.finetune import State

#: Raised when the names or meaning of what is inside change.
VERSION = 1

#: The one entry that is no array of the network.
STORY = "story"


def pack_checkpoint(state: State, story: Any) -> bytes:
    """The bytes to store; the story is anything that JSON can say."""
    said = json.dumps({"version": VERSION, "story": story}).encode()
    body = io.BytesIO()
    np.savez(body, allow_pickle=False, **{STORY: np.frombuffer(said, np.uint8)}, **state)
    return body.getvalue()


def unpack_checkpoint(body: bytes) -> tuple[State, Any]:
    """The state and the story; ContractError where the bytes are no checkpoint of this version."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as stored:
            state = {name: stored[name] for name in stored.files if name != STORY}
            said = json.loads(stored[STORY].tobytes())
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ContractError(f"not a checkpoint: {str(error).partition(chr(10))[0]}") from error
    if said.get("version") != VERSION:
        raise ContractError(f"a checkpoint of version {said.get('version')}; this worker knows {VERSION}")
    return state, said["story"]
