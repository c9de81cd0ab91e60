"""Quiet: from the many ways in which Pillow tells a log of a damaged image to none: the image's row says it.

A fax of 60,000 lines has libtiff write 60,000 lines to stderr, and each new text of a warning would be kept for ever.
"""

import ctypes
import logging
import warnings
from pathlib import Path

import PIL


def silence_pillow() -> None:
    """From now on images are no matter for the log of this process."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # Pillow turns off libtiff's warnings and not its errors. Its wheels for Linux bring the library in this folder;
    # with another one the lines stay.
    for library in Path(PIL.__file__).parent.with_name("pillow.libs").glob("libtiff-*.so*"):
        ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
