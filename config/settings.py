"""Settings: every knob of pixelherd, from a TOML file and the environment, read once at a process's entry."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from config.errors import SettingsError
from config.messages import Engine, Precision

ENV_PREFIX = "PIXELHERD_"

#: Names the TOML file to read; the environment's own variables go before the file's values.
CONFIG_VARIABLE = "PIXELHERD_CONFIG"

Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """What this process was told; frozen, so nobody changes it behind another's back."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    # Broker
    broker_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="redis:// or rediss:// URL")
    broker_ca_file: Path | None = Field(None, description="PEM of the CA of a rediss:// broker; None: the system's CAs")
    queue: str = Field("pixelherd", description="queue of bulk runs; <queue>.now is a person's few keys")
    queue_window: PositiveInt = Field(1_000, description="chunks waiting in Redis at most; a producer holds back")

    # Object store; without keys here the AWS credential chain is asked (environment, profile, instance role)
    s3_endpoint_url: str | None = Field(None, description="None: AWS; else an S3-compatible server")
    s3_region: str | None = Field(None, description="None: as the AWS chain says, else us-east-1")
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_timeout_s: PositiveFloat = Field(20.0, description="seconds for one request before it is tried again")
    s3_retry_timeout_s: PositiveFloat = Field(60.0, description="seconds of retries inside one stage")

    # Runs
    output: str | None = Field(None, description="s3:// base for results; None: pixelherd-results/ beside the source")
    chunk_size: Annotated[int, Field(ge=1, le=1_000)] = Field(256, description="keys of one task at most")
    chunk_retries: Annotated[int, Field(ge=0)] = Field(5, description="tries again after a transient error")
    max_image_bytes: PositiveInt = Field(64 * 2**20, description="a larger object becomes a row too_large")
    max_image_pixels: PositiveInt = Field(178_956_970, description="a larger image becomes a row too_large")

    # Worker
    engine: Engine = Engine.AUTO
    precision: Precision = Precision.AUTO
    batch_size: PositiveInt = Field(8, description="images the network sees at once")
    engine_threads: PositiveInt | None = Field(None, description="cores of one network; None: all that there are")
    fetch_threads: PositiveInt = Field(16, description="GET requests in flight in one worker process")
    decode_threads: PositiveInt | None = Field(None, description="None: as many as there are cores")
    fetched_bytes: PositiveInt = Field(128 * 2**20, description="bytes fetched but not decoded, at most")
    decode_bytes: PositiveInt = Field(2**30, description="memory to decode an image in; more is a row too_large")
    worker_processes: PositiveInt | None = Field(None, description="processes that compute; None: two, as measured")
    task_time_limit_s: PositiveInt = Field(1_800, description="a chunk that takes longer is killed and given back")
    epoch_time_limit_s: PositiveInt = Field(43_200, description="the same for an epoch of a training")
    visibility_timeout_s: PositiveInt = Field(60, description="silence after which a chunk goes to another worker")
    shutdown_grace_s: PositiveInt = Field(100, description="seconds a chunk may still run after SIGTERM")
    cache_dir: Path = Field(
        Path("~/.cache/pixelherd").expanduser(),
        description="weights and converted networks of this machine",
    )
    allow_file_weights: bool = Field(True, description="file:// URIs may name weights on this machine")

    # Fleet; a worker's own machine in AWS, as the Ansible roles tell it
    autoscaling_group: str | None = Field(None, description="its Auto Scaling group; None: no notices are looked for")
    lifecycle_hook: str = Field("drain", description="the group's hook that waits until an ending worker is done")
    metadata_url: str = Field("http://169.254.169.254", description="AWS's instance metadata service, version 2")
    fleet: str = Field("default", description="what autoscale's metrics are about: their dimension Fleet")
    autoscale_interval_s: PositiveFloat = Field(30.0, description="seconds between two of autoscale's looks")
    aws_endpoint_url: str | None = Field(None, description="CloudWatch and Auto Scaling; None: AWS's own")

    # Flower
    flower_address: str = "127.0.0.1"
    flower_port: Port = 5555
    flower_user: str = "pixelherd"
    flower_password: SecretStr | None = None
    flower_read_only: bool = True

    @field_validator("broker_url")
    @classmethod
    def _broker_is_redis(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return url

    @field_validator("broker_ca_file")
    @classmethod
    def _ca_is_a_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is no file")
        return path

    @field_validator("output")
    @classmethod
    def _output_is_s3(cls, uri: str | None) -> str | None:
        if uri is not None and not uri.startswith("s3://"):
            raise ValueError("must begin with s3://")
        return uri

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file that PIXELHERD_CONFIG names."""
        toml = os.environ.get(CONFIG_VARIABLE)
        file = (TomlConfigSettingsSource(settings_cls, Path(toml)),) if toml else ()
        return init_settings, env_settings, *file

    @property
    def now_queue(self) -> str:
        """Queue for a handful of keys that a person waits for."""
        return f"{self.queue}.now"


def read_settings(**given: Any) -> Settings:
    """Read the settings of this process; SettingsError names every bad one at once.

    `given` goes before the environment, and the environment before the file that PIXELHERD_CONFIG names.
    A variable that begins with PIXELHERD_ and is no setting is refused: a misspelt knob does nothing in silence.
    """
    toml = os.environ.get(CONFIG_VARIABLE)
    if toml and not Path(toml).is_file():
        raise SettingsError(f"{CONFIG_VARIABLE} names {toml}, which is no file")
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    complaints = [f"{name} is no setting" for name in unknown]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        complaints += [_complaint(found["loc"], found["msg"]) for found in error.errors(include_input=False)]
    except ValueError as error:  # a TOML file that cannot be parsed
        complaints.append(f"{toml}: {error}")
    if complaints:
        raise SettingsError("; ".join(complaints))
    return settings


def write_settings(path: Path, **values: Any) -> None:
    """Write a TOML file that PIXELHERD_CONFIG can name, readable by its owner alone: it may hold passwords."""
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    handle, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    Path(name).replace(path)


def _complaint(place: tuple[int | str, ...], text: str) -> str:
    name = str(place[0]) if place else "settings"
    return f"{ENV_PREFIX}{name.upper()}: {text.removeprefix('Value error, ')}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
