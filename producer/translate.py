"""Translate: from what boto3, obstore, Redis and kombu raise to pixelherd's own errors, by code and class."""

from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLCertVerificationError
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from kombu.exceptions import BatchPublishError, KombuError, OperationalError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from redis.exceptions import AuthenticationError, AuthorizationError, OutOfMemoryError, RedisError

from config.errors import PixelherdError, SettingsError, UnavailableError, UsageError
from config.settings import Settings

NO_PERMISSION = "no permission; these credentials need s3:ListBucket, s3:GetObject and s3:PutObject there"

#: S3's codes for what a person can mend in the request; the class of the error is the caller's to choose.
REFUSED = {
    "NoSuchBucket": "the bucket does not exist",
    "404": "the bucket does not exist",
    "NoSuchKey": "there is no such object",
    "InvalidBucketName": "no bucket can have this name",
    "AccessDenied": NO_PERMISSION,
    "AllAccessDisabled": "access to this bucket is disabled",
    "403": NO_PERMISSION,
}

#: S3's codes for "not you".
FORBIDDEN = frozenset({"AccessDenied", "AllAccessDisabled", "403"})

#: S3's codes for an object that is not there.
MISSING = frozenset({"404", "NoSuchKey"})

#: S3's codes for settings that are wrong, whatever is asked.
MISCONFIGURED = {
    "InvalidAccessKeyId": "S3 does not know this access key",
    "SignatureDoesNotMatch": "S3 refuses the secret key",
    "InvalidToken": "S3 refuses the session token",
    "ExpiredToken": "the S3 credentials have expired",
    "AuthorizationHeaderMalformed": "the bucket lies in another region; set PIXELHERD_S3_REGION",
    "PermanentRedirect": "the bucket lies in another region; set PIXELHERD_S3_REGION",
    "301": "the bucket lies in another region; set PIXELHERD_S3_REGION",
}

#: S3's codes for "later, please".
THROTTLED = frozenset({"SlowDown", "503", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "InternalError"})

#: Everything that a broker raises through redis-py or kombu.
BROKER_ERRORS = (RedisError, KombuError, OperationalError, BatchPublishError, ConnectionError, TimeoutError)


def s3_code(error: ClientError) -> str:
    """S3's own code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def s3_errors(doing: str, refused: type[UsageError] = UsageError) -> Iterator[None]:
    """Raise `refused`, SettingsError or UnavailableError in place of what boto3 or obstore raise."""
    try:
        yield
    except ClientError as error:
        raise _from_boto(error, doing, refused) from error
    except BotoCoreError as error:  # no answer: endpoint, time limit, broken connection
        raise UnavailableError(f"cannot {doing}: {_line(error)}") from error
    except FileNotFoundError as error:
        raise refused(f"cannot {doing}: {REFUSED['NoSuchKey']}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise refused(f"cannot {doing}: {REFUSED['AccessDenied']}") from error
    except BaseError as error:
        raise UnavailableError(f"cannot {doing}: {_line(error)}") from error


def _from_boto(error: ClientError, doing: str, refused: type[UsageError]) -> PixelherdError:
    code = s3_code(error)
    if code in REFUSED:
        return refused(f"cannot {doing}: {REFUSED[code]}")
    if code in MISCONFIGURED:
        return SettingsError(f"cannot {doing}: {MISCONFIGURED[code]}")
    return UnavailableError(f"cannot {doing}: {_line(error)}")


def broker_name(settings: Settings) -> str:
    """The broker as a person may see it: no user, no password."""
    url = urlsplit(settings.broker_url.get_secret_value())
    return f"{url.scheme}://{url.hostname or ''}:{url.port or 6379}{url.path}"


@contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """Raise SettingsError or UnavailableError in place of what redis-py and kombu raise; without password."""
    try:
        yield
    except BROKER_ERRORS as error:
        raise from_broker(error, settings) from error


def from_broker(error: BaseException, settings: Settings) -> PixelherdError:
    """What a broker's error means for a person."""
    cause, name = root_cause(error), broker_name(settings)
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return SettingsError(f"the broker {name} refuses user or password: check PIXELHERD_BROKER_URL")
    if (unproved := _certificate_error(error)) is not None:
        why = f"the broker {name} shows a certificate that nobody vouches for here ({unproved.verify_message})"
        return SettingsError(f"{why}: check PIXELHERD_BROKER_CA_FILE and the name in PIXELHERD_BROKER_URL")
    if isinstance(cause, OutOfMemoryError):
        return UnavailableError(f"the broker {name} is full: its maxmemory is reached or near")
    return UnavailableError(f"cannot reach the broker {name}: {_line(cause)}; is Redis running there?")


def _certificate_error(error: BaseException | None) -> SSLCertVerificationError | None:
    """What redis-py wrapped without naming it as the cause."""
    while error is not None and not isinstance(error, SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def root_cause(error: BaseException) -> BaseException:
    """The error that kombu wrapped, which alone says what happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__
