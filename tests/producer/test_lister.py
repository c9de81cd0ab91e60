"""From what a person gives to keys: every form of source, on a real S3 server, and every way to be wrong."""

import csv
import gzip
import io
import json
import time
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from config.errors import SettingsError, SourceError, UnavailableError
from producer.lister import open_listing
from producer.pages import ListedKey, Pages, one_ahead
from producer.source import (
    GlobSource,
    InventorySource,
    KeysSource,
    ManifestSource,
    PrefixSource,
    glob_pattern,
    literal_prefix,
    parse_source,
)
from tests.producer.proxy import Answer

#: Without those that the tests' S3 server stores under another name (a//b and a\\b as a/b).
AWKWARD = [
    "in/a+b.jpg",
    "in/a b.jpg",
    "in/ünï/日本.jpg",
    "in/a%2Fb.jpg",
    "in/100%.jpg",
    "in/new\nline.jpg",
    "in/tab\t.jpg",
    "in/q?x=1&y#z.jpg",
    "in/quote\"'.jpg",
    "in/[x]{y}|^`<>&amp;.jpg",
]


def keys_of(given, settings, output=None, **options):
    return [listed.key for listed in open_listing(parse_source(given, **options), settings, output).keys]


# --- What a person gives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("s3://bucket/photos/", PrefixSource),
        ("s3://bucket", PrefixSource),
        ("s3://bucket/photos/**/*.jpg", GlobSource),
        ("s3://bucket/lists/*.csv", GlobSource),
        ("s3://bucket/list.csv", ManifestSource),
        ("s3://bucket/list.JSONL.gz", ManifestSource),
        ("s3://bucket/inventory/2026-11-22T00-00Z/manifest.json", InventorySource),
        (["s3://bucket/a.jpg", "s3://bucket/b.jpg"], KeysSource),
    ],
)
def test_a_source_is_what_its_spelling_says(given, kind):
    assert isinstance(parse_source(given), kind)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("/no/such/file.csv", "s3://"),
        ("photos/", "s3://"),
        ("s3:///key", "no S3 URI"),
        (["s3://one/a.jpg", "s3://two/b.jpg"], "one, two"),
        (["a.jpg"], "names no bucket"),
        (["s3://bucket"], "not an image"),
        ([], "no keys"),
        ("s3://bucket/[z-a].jpg", "no pattern"),
    ],
)
def test_a_source_that_can_be_none_is_refused_in_one_line(given, word):
    with pytest.raises(SourceError, match=word) as refused:
        parse_source(given)
    assert "\n" not in str(refused.value)


def test_a_file_of_another_kind_is_no_manifest(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"\.csv"):
        parse_source(tmp_path / "cat.jpg")


@pytest.mark.parametrize(
    ("pattern", "prefix", "matches", "others"),
    [
        ("photos/*.jpg", "photos/", ["photos/a.jpg"], ["photos/b/a.jpg", "photos/a.JPG", "x/photos/a.jpg"]),
        ("photos/**/*.jpg", "photos/", ["photos/a.jpg", "photos/b/c/a.jpg"], ["photo/a.jpg", "photos/a.jpeg"]),
        ("photos**", "photos", ["photos", "photos/a", "photos-2/b/c"], ["photo"]),
        ("a**/b", "a", ["ax/b", "a/y/b"], ["ab"]),
        ("n0?/x[12].jpg", "n0", ["n01/x1.jpg", "n02/x2.jpg"], ["n0/x1.jpg", "n01/x3.jpg"]),
        ("[!a]*", "", ["b"], ["a", "b/c"]),
        ("in/*.{jpg,jpeg,png}", "in/", ["in/a.jpg", "in/a.png"], ["in/a.gif"]),
        ("in/{jan,jun}/*", "in/j", ["in/jan/a", "in/jun/b"], ["in/jul/a"]),
        ("in/{plain}*", "in/{plain}", ["in/{plain}.jpg"], ["in/plain"]),
        ("a.b/*+(1).jpg", "a.b/", ["a.b/x+(1).jpg"], ["aXb/x+(1).jpg"]),
        ("in/*", "in/", ["in/new\nline"], []),
        ("in/[[]*", "in/", ["in/[x"], ["in/x"]),
    ],
)
def test_globs(pattern, prefix, matches, others):
    regex = glob_pattern(pattern)
    assert literal_prefix(pattern) == prefix
    assert [key for key in matches if not regex.fullmatch(key)] == []
    assert [key for key in others if regex.fullmatch(key)] == []


# --- Prefixes and globs --------------------------------------------------------------------------------------------


def test_a_prefix_gives_every_key_with_what_s3_knows_of_it(settings, bucket, put_keys):
    before = datetime.now(UTC)
    put_keys(AWKWARD)
    listing = open_listing(parse_source(f"s3://{bucket}/in/"), settings, None)
    listed = list(listing.keys)
    assert listing.bucket == bucket
    assert sorted(found.key for found in listed) == sorted(AWKWARD)
    for found in listed:
        assert found.size == len(b"image")
        assert found.etag == '"78805a221a988e79ef3f42d7c5bfd418"'
        assert found.last_modified
        assert abs((found.last_modified - before).total_seconds()) < 60


def test_folder_marks_and_results_are_no_images(settings, bucket, put_keys):
    put_keys(["in/", "in/b/", "pixelherd-results/"], b"")
    put_keys(["in/a.jpg", "pixelherd-results/run/parts/x.parquet", "results-else/x"])
    put_keys(["in/empty.jpg"], b"")
    assert keys_of(f"s3://{bucket}", settings) == ["in/a.jpg", "in/empty.jpg", "results-else/x"]
    assert keys_of(f"s3://{bucket}", settings, f"s3://{bucket}/results-else/") == [
        "in/a.jpg",
        "in/empty.jpg",
        "pixelherd-results/run/parts/x.parquet",
    ]
    assert keys_of(f"s3://{bucket}", settings, "s3://another/in/") == [
        "in/a.jpg",
        "in/empty.jpg",
        "pixelherd-results/run/parts/x.parquet",
        "results-else/x",
    ]


@pytest.mark.parametrize("base", ["", "in/"])
def test_where_results_go_among_the_images_only_runs_are_left_out(base, settings, bucket, put_keys):
    run = f"{base}20261122-103000-classify-resnet50-3fa2"
    put_keys(["in/a.jpg", f"{run}/job.json", f"{run}/parts/x.parquet"])
    assert keys_of(f"s3://{bucket}/in/", settings, f"s3://{bucket}/{base}") == ["in/a.jpg"]


def test_a_source_without_a_slash_is_the_folder_or_the_key(settings, bucket, put_keys):
    put_keys(["photos/a.jpg", "photos-old/b.jpg", "cat.jpg"])
    assert keys_of(f"s3://{bucket}/photos", settings) == ["photos/a.jpg"]
    assert keys_of(f"s3://{bucket}/cat.jpg", settings) == ["cat.jpg"]
    assert sorted(keys_of(f"s3://{bucket}/photos**", settings)) == ["photos-old/b.jpg", "photos/a.jpg"]
    with pytest.raises(SourceError, match=r"phot\*\* .*/photos"):
        keys_of(f"s3://{bucket}/phot", settings)


def test_a_glob_lists_no_more_than_its_prefix(proxied, proxy, bucket, put_keys):
    put_keys(["in/a.jpg", "in/b/c.jpg", "in/b/c.png", "other/d.jpg"])
    assert sorted(keys_of(f"s3://{bucket}/in/**/*.jpg", proxied)) == ["in/a.jpg", "in/b/c.jpg"]
    assert proxy.count("list-type=2") == proxy.count("list-type=2", "prefix=in%2F") == 1


def test_pages_are_fetched_one_ahead_and_no_further(proxied, proxy, bucket, put_keys):
    keys = put_keys(f"in/{number:05d}.jpg" for number in range(3_500))
    listing = open_listing(parse_source(f"s3://{bucket}/in/"), proxied, None)
    assert proxy.count("list-type=2") == 0
    assert next(listing.keys).key == keys[0]
    deadline = time.monotonic() + 20
    while proxy.count("list-type=2") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.count("list-type=2") == 2
    assert [listed.key for listed in listing.keys] == keys[1:]
    assert proxy.count("list-type=2") == 4


def test_a_listing_goes_on_behind_a_key(settings, bucket, put_keys):
    put_keys(["in/a/b", "in/a-b", "in/a.b", "in/a0", "in/a/c/d"])
    source = parse_source(f"s3://{bucket}/in/")
    whole = [listed.key for listed in open_listing(source, settings, None).keys]
    for number, key in enumerate(whole):
        behind = [listed.key for listed in open_listing(source, settings, None, after=key).keys]
        assert behind == whole[number + 1 :]


def test_a_listing_that_is_left_ends_its_thread():
    asked = []

    def pages() -> Pages:
        for number in range(5):
            asked.append(number)
            yield [ListedKey(f"{number}")]

    ahead = one_ahead(pages())
    assert next(ahead) == [ListedKey("0")]
    ahead.close()
    assert len(asked) <= 2


# --- Refusals ------------------------------------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist(settings):
    with pytest.raises(SourceError, match="the bucket does not exist"):
        keys_of("s3://no-such-bucket-here/in/", settings)


def test_a_source_without_images(settings, bucket, put_keys):
    put_keys(["in/a.jpg", "in/b.jpg"])
    put_keys(["marks/x/"], b"")
    for source, words in (
        ("nothing/", "no keys in"),
        ("nothing", "no keys under"),
        ("in/*.png", "none of the 2 keys"),
        ("marks/", "no images in"),
    ):
        with pytest.raises(SourceError, match=words):
            keys_of(f"s3://{bucket}/{source}", settings)


def test_a_bucket_without_permission(proxied, proxy, bucket):
    proxy.answer = lambda request: Answer(403, "AccessDenied") if "list-type=2" in request else None
    with pytest.raises(SourceError, match="s3:ListBucket"):
        keys_of(f"s3://{bucket}/in/", proxied)


def test_a_wrong_secret_key(settings, bucket):
    wrong = settings.model_copy(update={"s3_secret_access_key": SecretStr("planted-secret")})
    with pytest.raises(SettingsError, match="refuses the secret key") as refused:
        keys_of(f"s3://{bucket}/in/", wrong)
    assert "planted-secret" not in str(refused.value)


def test_a_server_that_is_not_there(settings):
    away = settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(UnavailableError, match="cannot list") as refused:
        keys_of("s3://bucket/in/", away)
    assert "\n" not in str(refused.value)


def test_a_bucket_that_asks_to_slow_down_is_asked_again(proxied, proxy, bucket, put_keys, monkeypatch):
    monkeypatch.setattr("producer.objects.FIRST_BACKOFF_S", 0.01)
    put_keys(["in/a.jpg"])
    refused = iter([True] * 7)
    proxy.answer = lambda request: Answer(503, "SlowDown") if next(refused, False) else None
    assert keys_of(f"s3://{bucket}/in/", proxied) == ["in/a.jpg"]
    assert proxy.count("list-type=2") == 8


def test_a_bucket_that_asks_to_slow_down_for_ever_is_unavailable(proxied, proxy, bucket):
    proxy.answer = lambda request: Answer(503, "SlowDown")
    impatient = proxied.model_copy(update={"s3_retry_timeout_s": 0.1})
    with pytest.raises(UnavailableError, match="SlowDown"):
        keys_of(f"s3://{bucket}/in/", impatient)


# --- Manifests -----------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"key": "in/new\nline, and comma.jpg", "size": 12, "etag": '"e1"', "last_modified": "2026-01-02T03:04:05+00:00"},
    {"key": "in/ünï +%2F.jpg", "size": None, "etag": None, "last_modified": None},
]


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, ["mine", *rows[0]], restval="x")
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def as_json_lines(rows):
    return "\n".join(json.dumps(row) for row in rows).encode() + b"\n\n"


def as_parquet(rows):
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"mine": 1, **row} for row in rows]), body)
    return body.getvalue()


WRITERS = {
    "list.csv": as_csv,
    "list.csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "list.jsonl": as_json_lines,
    "list.ndjson.gz": lambda rows: gzip.compress(as_json_lines(rows)),
    "list.parquet": as_parquet,
}


@pytest.mark.parametrize("column", ["key", "uri"])
def test_a_manifest_in_s3_or_on_this_machine(column, settings, bucket, put_keys, tmp_path):
    start = "" if column == "key" else f"s3://{bucket}/"
    written = [{column: start + row["key"], **{name: row[name] for name in list(row)[1:]}} for row in ROWS]
    for name, write in WRITERS.items():
        put_keys([f"lists/{name}"], write(written))
        (tmp_path / name).write_bytes(write(written))
        for given, home in ((f"s3://{bucket}/lists/{name}", None), (tmp_path / name, bucket)):
            listing = open_listing(parse_source(given, home), settings, None)
            listed = list(listing.keys)
            assert listing.bucket == bucket
            assert [found.key for found in listed] == [row["key"] for row in ROWS]
            assert listed[0][1:4] == (12, '"e1"', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
            assert listed[1][1:] == (None, None, None, None)


def test_a_text_file_is_a_key_on_each_line(settings, bucket, tmp_path):
    (tmp_path / "list.txt").write_bytes(f"s3://{bucket}/in/a b.jpg\r\n\ns3://{bucket}/in/ c.jpg \n".encode())
    assert keys_of(tmp_path / "list.txt", settings) == ["in/a b.jpg", "in/ c.jpg "]


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("list.csv", b"name,size\na.jpg,1\n", "no column `key` or `uri`; its columns are name, size"),
        ("list.csv", b"", "its columns are none"),
        ("list.csv", b"key\n", "no keys in"),
        ("list.csv", b"uri\ns3://one/a\ns3://two/b\n", r"several buckets \(one, and two for 'b'\)"),
        ("list.csv", b"key\na.jpg\n", "row 1: .*names no bucket"),
        ("list.csv", b"uri,size\ns3://one/a,1\ns3://one/b,many\n", "behind row 2"),
        ("list.csv", b"uri\ns3://one/\xff\xfe\n", "cannot read"),
        ("list.csv.gz", b"uri\ns3://one/a\n", "cannot read"),
        ("list.jsonl", b'{"uri": "s3://one/a"}\n"s3://one/b"\n', "no JSON object"),
        ("list.jsonl", b'{"uri": \n', "cannot read"),
        ("list.parquet", b"no parquet at all", "cannot read"),
        ("list.parquet", as_parquet([{"name": "a"}]), "its columns are mine, name"),
        ("list.txt", b"\n\n", "no keys in"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(name, body, words, settings, tmp_path):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(SourceError, match=words) as refused:
        keys_of(tmp_path / name, settings)
    assert "\n" not in str(refused.value)


def test_a_manifest_that_does_not_exist(settings, bucket):
    with pytest.raises(SourceError, match="there is no such object"):
        keys_of(f"s3://{bucket}/lists/none.csv", settings)


# --- S3 Inventory --------------------------------------------------------------------------------------------------

SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"

#: Key, as the CSV spells it, is latest, is delete marker, size.
STORED = [
    ("in/a b+c.jpg", "in/a+b%2Bc.jpg", True, False, 11),
    ("in/old.jpg", "in/old.jpg", False, False, 12),
    ("in/gone.jpg", "in/gone.jpg", True, True, None),
    ("in/", "in/", True, False, 0),
    ("in/日本.jpg", "in/%E6%97%A5%E6%9C%AC.jpg", True, False, 13),
    ("pixelherd-results/x", "pixelherd-results/x", True, False, 14),
]


def inventory_csv(bucket):
    text = io.StringIO()
    for _, key, latest, deleted, size in STORED:
        csv.writer(text, quoting=csv.QUOTE_ALL).writerow(
            [bucket, key, "v1", latest, deleted, size, "2026-01-02T03:04:05.000Z", "abc"]
        )
    return gzip.compress(text.getvalue().encode())


def inventory_parquet(bucket):
    body, at = io.BytesIO(), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = [
        {
            "bucket": bucket,
            "key": key,
            "version_id": "v1",
            "is_latest": latest,
            "is_delete_marker": deleted,
            "size": size,
            "last_modified_date": at,
            "e_tag": "abc",
        }
        for key, _, latest, deleted, size in STORED
    ]
    pq.write_table(pa.Table.from_pylist(rows), body)
    return body.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [("CSV", "data.csv.gz", inventory_csv), ("Parquet", "data.parquet", inventory_parquet)],
)
def test_an_inventory_is_read_without_listing_the_bucket(kind, name, write, proxied, proxy, bucket, put_keys, tmp_path):
    manifest = {
        "sourceBucket": "photos-of-mine",
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "fileFormat": kind,
        "fileSchema": SCHEMA,
        "files": [{"key": f"inv/data/{name}", "size": 1, "MD5checksum": "x"}],
    }
    put_keys([f"inv/data/{name}"], write("photos-of-mine"))
    put_keys(["inv/2026/manifest.json"], json.dumps(manifest).encode())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for given in (f"s3://{bucket}/inv/2026/manifest.json", tmp_path / "manifest.json"):
        listing = open_listing(parse_source(given), proxied, None)
        assert listing.bucket == "photos-of-mine"
        assert [tuple(listed) for listed in listing.keys] == [
            ("in/a b+c.jpg", 11, '"abc"', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None),
            ("in/日本.jpg", 13, '"abc"', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None),
        ]
    assert proxy.count("GET") > 0
    assert proxy.count("list-type=2") == 0


def test_a_manifest_json_that_is_no_inventory(settings, bucket, put_keys):
    for body in (b"{", b"[]", b'{"fileFormat": "ORC", "files": []}', b'{"fileFormat": "CSV", "files": []}'):
        put_keys(["inv/manifest.json"], body)
        with pytest.raises(SourceError, match="no S3 Inventory in CSV or Parquet"):
            keys_of(f"s3://{bucket}/inv/manifest.json", settings)


def test_an_inventory_whose_file_is_gone(settings, bucket, put_keys):
    manifest = {"sourceBucket": "b", "fileFormat": "CSV", "fileSchema": SCHEMA, "files": [{"key": "gone.csv.gz"}]}
    put_keys(["inv/manifest.json"], json.dumps(manifest).encode())
    with pytest.raises(SourceError, match=r"gone\.csv\.gz"):
        keys_of(f"s3://{bucket}/inv/manifest.json", settings)
