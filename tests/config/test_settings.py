"""Settings are read once, from a file and the environment, and everything that is wrong is said at once."""

import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.errors import SettingsError
from config.messages import Engine
from config.settings import CONFIG_VARIABLE, Settings, read_settings, write_settings


def test_a_machine_that_was_told_nothing_has_defaults():
    settings = read_settings()
    assert settings.broker_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.chunk_size == 256
    assert settings.engine is Engine.AUTO
    assert settings.now_queue == "pixelherd.now"


def test_arguments_go_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    config = tmp_path / "pixelherd.toml"
    write_settings(config, queue="file", chunk_size=1, batch_size=1)
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    monkeypatch.setenv("PIXELHERD_CHUNK_SIZE", "2")
    monkeypatch.setenv("PIXELHERD_BATCH_SIZE", "2")
    settings = read_settings(batch_size=3)
    assert (settings.queue, settings.chunk_size, settings.batch_size) == ("file", 2, 3)


def test_all_that_is_wrong_is_named_at_once_without_its_value(monkeypatch):
    monkeypatch.setenv("PIXELHERD_BROKER_URL", "http://:secret@broker")
    monkeypatch.setenv("PIXELHERD_CHUNK_SIZE", "many")
    monkeypatch.setenv("PIXELHERD_OUTPUT", "/home/me")
    monkeypatch.setenv("PIXELHERD_CHUNKSIZE", "256")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    text = str(caught.value)
    for name in ("BROKER_URL", "CHUNK_SIZE", "OUTPUT", "CHUNKSIZE is no setting"):
        assert f"PIXELHERD_{name}" in text
    assert "secret" not in text
    assert "\n" not in text


def test_a_file_that_is_not_there_is_not_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "missing.toml"))
    with pytest.raises(SettingsError, match=r"missing\.toml, which is no file"):
        read_settings()


@pytest.mark.parametrize("text", ["queue = ", "quue = 'x'", "chunk_size = 0", "\udcff"])
def test_a_file_that_is_wrong_is_refused(tmp_path, monkeypatch, text):
    config = tmp_path / "pixelherd.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    with pytest.raises(SettingsError):
        read_settings()


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        read_settings().queue = "other"  # type: ignore[misc]  # the type checker knows too


def test_a_secret_is_not_shown():
    settings = Settings(broker_url="redis://:hidden@host:1/0", s3_secret_access_key="hidden", flower_password="hidden")
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings.model_dump())


def test_a_written_file_is_its_owners_alone_and_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "pixelherd.toml"
    path.write_text("old")
    path.chmod(0o644)
    write_settings(path, broker_url="redis://:hidden@host:1/0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


#: A TOML string holds every character but those that no text file should have.
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cc", "Cs"))),
)


@given(value=values)
def test_what_is_written_is_what_is_read(tmp_path_factory, value):
    path: Path = tmp_path_factory.mktemp("toml") / "settings.toml"
    write_settings(path, value=value)
    assert tomllib.loads(path.read_text(encoding="utf-8")) == {"value": value}
