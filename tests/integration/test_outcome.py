"""The campaign's own counting: what is taken out of a run, doubled in it or changed, it finds, and fails."""

from io import BytesIO

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from benchmarks.faults import FAULTS
from benchmarks.outcome import Outcome, Rows, check_rows, print_tables
from config.results import RunAddress

ADDRESS = RunAddress("bucket", "out/run-1")
PART = ADDRESS.part_key("00000-0000016-0016-00000000")


@pytest.fixture
def quiet(store: S3Store) -> Rows:
    """Two parts of a run, and what a quiet run left."""
    for start in (0, 16):
        rows = [
            {"key": f"in/{number}.jpg", "status": "ok", "class_id": "n01440764", "size_bytes": number}
            for number in range(start, start + 16)
        ]
        write(store, ADDRESS.part_key(f"00000-{start:07d}-0016-00000000"), rows)
    outcome = Outcome()
    found = check_rows(store, ADDRESS, {}, outcome)
    assert (outcome.rows, outcome.good) == (32, True)
    return found


def write(store: S3Store, key: str, rows: list[dict[str, object]]) -> None:
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    obstore.put(store, key, sink.getvalue())


def read(store: S3Store) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(BytesIO(bytes(obstore.get(store, PART).bytes()))).to_pylist()
    return rows


def lose_a_part(store: S3Store) -> None:
    obstore.delete(store, PART)


def lose_a_row(store: S3Store) -> None:
    write(store, PART, read(store)[1:])


def double_a_row(store: S3Store) -> None:
    write(store, PART, [*read(store), read(store)[0]])


def leave_a_half_beside_its_whole(store: S3Store) -> None:
    write(store, ADDRESS.part_key("00000-0000016-0008-11111111"), read(store)[:8])


def change_a_status(store: S3Store) -> None:
    write(store, PART, [{**read(store)[0], "status": "undecodable"}, *read(store)[1:]])


def change_a_class(store: S3Store) -> None:
    write(store, PART, [{**read(store)[0], "class_id": "n01443537"}, *read(store)[1:]])


def add_a_stranger(store: S3Store) -> None:
    write(store, PART, [*read(store), {**read(store)[0], "key": "in/stranger.jpg"}])


PLANTED = [
    (lose_a_part, (16, 16, 0, 0)),
    (lose_a_row, (31, 1, 0, 0)),
    (double_a_row, (33, 0, 1, 0)),
    (leave_a_half_beside_its_whole, (40, 0, 8, 0)),
    (change_a_status, (32, 0, 0, 1)),
    (change_a_class, (32, 0, 0, 1)),
    (add_a_stranger, (33, 0, 0, 1)),
]


@pytest.mark.parametrize(("plant", "counted"), PLANTED, ids=lambda case: getattr(case, "__name__", ""))
def test_a_campaign_finds_what_was_planted_and_fails(plant, counted, quiet, store, capsys):
    plant(store)
    outcome = Outcome(run_id="run-1")
    check_rows(store, ADDRESS, quiet, outcome)
    assert (outcome.rows, outcome.lost, outcome.doubled, outcome.wrong) == counted
    assert print_tables(7, [Outcome(rows=32), outcome], FAULTS) == 1
    assert " ".join(map(str, counted[1:])) in " ".join(capsys.readouterr().out.split())


def test_a_campaign_in_which_nothing_was_planted_succeeds(quiet, store):
    outcome = Outcome()
    check_rows(store, ADDRESS, quiet, outcome)
    assert print_tables(7, [outcome], FAULTS) == 0


def test_a_run_that_does_not_end_fails_the_campaign():
    assert print_tables(7, [Outcome(rows=32), Outcome(note="not done 240 s after the last fault")], FAULTS) == 1
