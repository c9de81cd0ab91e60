"""The errors of a worker; each one's type is its fate (config.errors draws the rest of the tree).

::

    PixelherdError
    ├── ImageError             this image can never succeed: one row with its status
    │   ├── ImageMissing · ImageForbidden · ImageEmpty
    │   └── ImageUndecodable · ImageTooLarge · ImagePoison
    ├── RowsPending            this training waits for rows of its images: it is looked at again, however often
    └── TransientError         this chunk may succeed later: Celery delivers it again, with backoff
        └── BucketUnavailable  the whole bucket is gone or closed
"""

from typing import ClassVar

from config.errors import PixelherdError
from config.results import Status


class ImageError(PixelherdError):
    """Base of the reasons why one image has no result; never stops its neighbours."""

    status: ClassVar[Status]


class ImageMissing(ImageError):
    """The key was in the manifest and is gone now."""

    status = Status.MISSING


class ImageForbidden(ImageError):
    """The object store refuses this key to this worker."""

    status = Status.FORBIDDEN


class ImageEmpty(ImageError):
    """The object has no bytes."""

    status = Status.EMPTY


class ImageUndecodable(ImageError):
    """The bytes are no image that can be read."""

    status = Status.UNDECODABLE


class ImageTooLarge(ImageError):
    """More bytes or pixels than the settings allow."""

    status = Status.TOO_LARGE


class ImagePoison(ImageError):
    """This image killed the processes that tried it."""

    status = Status.POISON


class TransientError(PixelherdError):
    """The same chunk may succeed later."""


class BucketUnavailable(TransientError):
    """The bucket itself cannot be read or written; no image is to blame, and after some tries the run stops."""


class RowsPending(PixelherdError):
    """So many images of a training have no row yet, of which so many were given up."""

    def __init__(self, images: int, given_up: int) -> None:
        super().__init__(f"{images:,} images have no row yet, {given_up:,} of them were given up")
        self.images, self.given_up = images, given_up
