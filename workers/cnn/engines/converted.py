"""Converted networks of this machine: a recipe in, the directory of its OpenVINO IR out, converted at first use.

Keras and TensorFlow cost a process 500 MB and 5 s, so the conversion has a process of its own, which ends.
"""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import workers
from config import errors
from config.errors import PixelherdError, SettingsError
from workers.cnn.recipe import NetworkRecipe

IR_FILE = "network.xml"
OUTPUTS_FILE = "outputs.json"

#: Seconds; VGG-19, the largest network here, took 13 s on a busy machine.
CONVERSION_TIMEOUT_S = 900

#: Characters of a failed conversion's log that a person gets to see.
LOG_TAIL = 2_000


def find_or_convert(recipe: NetworkRecipe, cache_dir: Path) -> Path:
    """The directory that holds a recipe's IR; of several processes that need it at once, one converts.

    Raises what loading the network raises (ContractError, UnavailableError), SettingsError where converting fails.
    """
    target = cache_dir.absolute() / "networks" / f"{recipe.spec.name}-{recipe.digest[:16]}"
    if not (target / IR_FILE).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not (target / IR_FILE).is_file():
                _convert(recipe, target)
    return target


def _convert(recipe: NetworkRecipe, target: Path) -> None:
    for half in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed
        shutil.rmtree(half, ignore_errors=True)
    command = [sys.executable, "-m", "workers.cnn.engines.convert", str(target)]
    try:
        done = subprocess.run(
            command,
            input=recipe.model_dump_json(),
            cwd=Path(workers.__file__).parent.parent,  # python -m looks there first, wherever we were started
            capture_output=True,
            text=True,
            timeout=CONVERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(f"converting {recipe.spec.name} took more than {CONVERSION_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise _failure(recipe, done)


def _failure(recipe: NetworkRecipe, done: subprocess.CompletedProcess[str]) -> PixelherdError:
    """The error that the other process put into its last line, or what it said before it died."""
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        kind = getattr(errors, said["error"])
    except (LookupError, ValueError, TypeError, AttributeError):
        tail = done.stderr.strip()[-LOG_TAIL:]
        return SettingsError(f"converting {recipe.spec.name} ended with code {done.returncode}: {tail}")
    error: PixelherdError = kind(said["text"])
    return error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets it go even when its holder is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
