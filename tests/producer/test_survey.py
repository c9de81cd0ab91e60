"""Rows counted from the parts that stand: each image once, in bounded memory, and the page that wait leaves."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import obstore
import pytest

import producer
from config.clients import make_s3
from config.messages import Mode
from config.results import Status
from producer.client import Run
from producer.page import make_page
from producer.report import make_report
from producer.survey import READ_THREADS, done_names, in_order_ahead, survey_rows
from tests.producer.proxy import Answer
from tests.producer.stand_in import StandIn, finish_chunk, take_chunks


def names(count):
    return [f"in/{number:05d}.jpg" for number in range(count)]


def broken_fives(key: str) -> Status:
    return Status.UNDECODABLE if key.endswith("5.jpg") else Status.OK


def finished(settings, source, **options) -> Run:
    """A run whose chunks are all done; every tenth image is broken."""
    run = producer.submit(options.pop("mode", "classify"), source, settings=settings, on_event=pytest.fail, **options)
    assert run.wait_enqueued(60)
    for chunk in take_chunks(settings):
        finish_chunk(settings, chunk, broken_fives)
    return run


def test_an_image_counts_once_however_its_chunk_was_done(settings, bucket, put_keys):
    put_keys(names(40))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings)
    assert run.wait_enqueued(60)
    first, second, third = take_chunks(settings)
    for chunk in (first, *first.halves(), *second.halves(), third):
        finish_chunk(settings, chunk, broken_fives)
    found = survey_rows(run._run)
    assert (found.rows, found.classes, found.errors) == (40, {"tabby": 36}, {"undecodable": 4})
    assert [name.split("-")[1:3] for name in done_names(run._run)] == [
        ["0000000", "0016"],
        ["0000016", "0008"],
        ["0000024", "0008"],
        ["0000032", "0008"],
    ]
    assert found.examples == {"undecodable": [(f"in/000{number}5.jpg", "") for number in range(3)]}


def test_of_a_large_run_every_kth_part_is_read_and_the_page_says_so(settings, bucket, put_keys):
    put_keys(names(100))
    run = finished(settings.model_copy(update={"chunk_size": 10}), f"s3://{bucket}/in/")
    total = sum(1 for _ in done_names(run._run))
    found = survey_rows(run._run, most_parts=total // 2)
    assert found.rows < 100
    report = make_report(run._run, survey=True)
    assert report.survey is not None
    assert report.survey.rows == 100
    report.survey.rows = found.rows
    assert f"Counted over a sample of {found.rows} images" in make_page(report)


def test_features_are_not_fetched_to_count_errors(settings, bucket, put_keys):
    put_keys(names(20))
    run = finished(settings, f"s3://{bucket}/in/", mode="extract_features", features="avg_pool", even_large=True)
    assert run.record.job.mode is Mode.EXTRACT_FEATURES
    found = survey_rows(run._run)
    assert (found.rows, found.errors) == (20, {"undecodable": 2})
    assert "layers" in make_page(run.report(survey=True))


def test_wait_leaves_a_page_that_a_browser_opens(settings, bucket, put_keys):
    put_keys(names(20))
    run = finished(settings, f"s3://{bucket}/in/")
    assert run.wait(timeout_s=60).phase is producer.Phase.DONE
    s3 = make_s3(settings)
    page = s3.get_object(Bucket=bucket, Key=run.address.report_key)
    s3.close()
    assert page["ContentType"] == "text/html; charset=utf-8"
    text = page["Body"].read().decode()
    assert "tabby" in text
    assert "in/00005.jpg" in text
    assert run.report().survey is None, "rows were read for a report that shows none"


def test_a_handful_leaves_no_page(settings, bucket, store, put_keys):
    put_keys(names(3))
    with StandIn(settings, settings.now_queue):
        producer.classify([f"s3://{bucket}/{key}" for key in names(3)], settings=settings)
    left = [found["path"] for page in obstore.list(store, "pixelherd-results/") for found in page]
    assert left
    assert not [path for path in left if path.endswith(".html")]


def test_a_page_that_cannot_be_written_is_one_line(proxied, proxy, bucket, put_keys):
    put_keys(names(20))
    told: list[str] = []
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=proxied, on_event=told.append)
    assert run.wait_enqueued(60)
    for chunk in take_chunks(proxied):
        finish_chunk(proxied, chunk)
    proxy.answer = lambda request: Answer(403, "AccessDenied") if "report.html" in request else None
    assert run.wait(timeout_s=60).phase is producer.Phase.DONE
    (line,) = told
    assert line.startswith("report.html could not be written: ")
    assert "\n" not in line


def test_few_parts_are_in_flight():
    begun, most, lock = 0, 0, Lock()

    def fetch(number: int) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun)
        return number

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for expected, number in enumerate(in_order_ahead(pool, fetch, iter(range(500)))):
            assert number == expected
            with lock:
                begun -= 1
    assert most <= 2 * READ_THREADS + 1
