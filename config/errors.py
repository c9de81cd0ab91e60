"""The errors of pixelherd that both sides know; each class is one fate (a row, a retry, an exit).

The tree (a test holds this drawing to the classes, in config and in workers)::

    PixelherdError
    ├── SettingsError          this process must not start: every bad setting is named at once
    ├── UsageError             the person asked for something that cannot be; exit code 2
    │   ├── UnknownModel       no model of that name (did you mean …)
    │   └── SourceError        the source does not exist, is empty or may not be read
    ├── UnavailableError       broker or object store cannot be reached; exit code 1
    ├── ContractError          a message or object of an unknown version or shape: refused once
    └── (workers.errors)       ImageError: one row · TransientError: the chunk is tried again
"""


class PixelherdError(Exception):
    """Base of every error that pixelherd raises on purpose; its text is one line for a person."""


class SettingsError(PixelherdError):
    """Raised at the start of a process whose settings are wrong; names all of them at once."""


class UsageError(PixelherdError):
    """Raised when a person asked for something that cannot be; nothing was changed."""


class UnknownModel(UsageError):
    """Raised for a model name that the catalogue does not hold; the text names the nearest ones."""


class SourceError(UsageError):
    """Raised when a source of keys does not exist, is empty, or may not be read."""


class UnavailableError(PixelherdError):
    """Raised when the broker or the object store cannot be reached; the same call may succeed later."""


class ContractError(PixelherdError):
    """Raised for a message or a stored object of an unknown version or shape; never redelivered."""
