"""Flower's options: closed to strangers, bounded in memory, readable for a person."""

from types import SimpleNamespace

import pytest

from config.errors import SettingsError
from config.flowerconfig import LINE_LENGTH, MOST_LINES, flower_options, format_task, is_loopback, with_login
from config.settings import Settings

CHUNK = "run=20261122-1-x mode=classify model=resnet50 chunk=00000-0000000-0256-0123abcd images=256"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", "192.168.1.7", "flower.example.org", ""])
@pytest.mark.parametrize("password", [None, ""])
def test_an_open_address_needs_a_password(address, password):
    with pytest.raises(SettingsError, match="PIXELHERD_FLOWER_PASSWORD"):
        flower_options(Settings(flower_address=address, flower_password=password))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_gets_a_password_of_its_own(address):
    assert is_loopback(address)
    first, second = (with_login(Settings(flower_address=address)) for _ in range(2))
    assert first.flower_password
    assert len(first.flower_password.get_secret_value()) >= 16
    assert first.flower_password != second.flower_password


def test_a_given_password_is_kept():
    settings = with_login(Settings(flower_address="0.0.0.0", flower_user="me", flower_password="p:w"))
    assert flower_options(settings)["basic_auth"] == ["me:p:w"]


def test_a_password_that_flower_cannot_read_is_refused():
    """Flower compares text, which Python does for ASCII only: each page would be an error."""
    with pytest.raises(SettingsError, match="ASCII"):
        flower_options(Settings(flower_password="grün"))


def test_memory_is_bounded_and_nothing_can_be_changed_unasked():
    options = flower_options(Settings())
    assert options["max_tasks"] == 20_000
    assert options["max_workers"] == 500
    assert options["purge_offline_workers"] == 300
    assert options["read_only"] is True
    assert flower_options(Settings(flower_read_only=False))["read_only"] is False


def test_the_runtime_buckets_are_floats_and_tell_chunks_of_5_to_120_s_apart():
    buckets = flower_options(Settings())["task_runtime_metric_buckets"]
    assert all(isinstance(edge, float) for edge in buckets)
    assert buckets == sorted(buckets)
    assert sum(5 <= edge <= 120 for edge in buckets) >= 8


def test_every_option_is_one_that_flower_knows():
    options = pytest.importorskip("flower.options").default_options
    assert set(flower_options(Settings())) <= set(options)


def task(**fields):
    return SimpleNamespace(name="pixelherd.classify", args="", kwargs=CHUNK, result=None, exception=None, **fields)


def test_a_chunk_is_three_lines_with_all_of_its_words():
    shown = format_task(task()).kwargs
    assert shown.replace("\n", " ") == CHUNK
    assert len(shown.splitlines()) == 3


def test_256_keys_of_a_sender_without_pixelherd_are_cut():
    strange = task()
    strange.kwargs = str({"chunk": {"keys": [f"holiday/{number}.jpg" for number in range(256)]}})
    lines = format_task(strange).kwargs.splitlines()
    assert len(lines) == MOST_LINES
    assert all(len(line) <= LINE_LENGTH for line in lines)
    assert lines[-1].endswith("…")


def test_a_task_of_which_nothing_is_known_yet_is_left_alone():
    """An event may come before the one that names the task."""
    empty = format_task(SimpleNamespace(name=None, args=None, kwargs=None, result=None, exception=None))
    assert empty.kwargs is None
