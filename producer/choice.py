"""Choice: from a word to the member of a StrEnum that it names, or a refusal that offers the nearest ones."""

import difflib
from enum import StrEnum
from typing import TypeVar

from config.errors import UsageError

Choice = TypeVar("Choice", bound=StrEnum)


def choose(among: type[Choice], name: str, what: str) -> Choice:
    """The member of this name; UsageError calls the whole thing `what`."""
    names = [choice.value for choice in among]
    if name in names:
        return among(name)
    near = difflib.get_close_matches(name, names, n=1)
    offer = f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"
    raise UsageError(f"unknown {what} {name!r}: {offer}")
