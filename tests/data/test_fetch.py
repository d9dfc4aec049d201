from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import http.server
import json
import pathlib
import re
import threading

import numpy as np
import ogbench.utils
import pytest

import flp.data.fetch as fetching
from flp.data.archive import write_npz
from flp.data.episodes import Collector, Recipe
from flp.data.fetch import fetch
from flp.system.errors import FLPError

NAME = "pointmaze-medium-navigate"
TRAIN, VAL = f"{NAME}-v0.npz", f"{NAME}-v0-val.npz"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `faults` maps a path to what goes wrong with its next requests."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.faults = {}
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        faults = self.server.faults.get(self.path.rsplit("/", 1)[-1], [])
        fault = faults.pop(0) if faults else None
        if fault in {None, "etag", "unknown length"}:
            return self.send_whole(etag=fault)
        if isinstance(fault, int):
            return self.send_error(fault)
        if fault == "insecure":
            self.send_response(302)
            self.send_header("Location", "http://example.com/x.npz")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self.send_whole(etag="e" if fault == "break with etag" else None, cut=True)

    def send_whole(self, etag=None, cut=False):
        path = self.translate_path(self.path)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            return self.send_error(404)
        span = self.headers.get("Range")
        first = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", "many" if etag == "unknown length" else str(len(content) - first))
        self.end_headers()
        body = content[first:]
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True
        return None


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    collector = Collector(Recipe(NAME, 50, 0, 0.5, "scripted"))
    for name, numbers in ((TRAIN, range(20)), (VAL, range(20, 22))):
        episodes = [collector.episode(number) for number in numbers]
        write_npz(folder / name, {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]})
    return folder


@pytest.fixture
def site(tmp_path, originals):
    folder = tmp_path / "site"
    folder.mkdir()
    for name in (TRAIN, VAL):
        (folder / name).write_bytes((originals / name).read_bytes())
    return folder


@pytest.fixture
def server(site, tmp_path, monkeypatch):
    """Replaces OGBench's server and cache folder; skips pauses."""
    server = Server(site)
    monkeypatch.setattr(ogbench.utils, "DATASET_URL", server.url)
    monkeypatch.setattr(ogbench.utils, "DEFAULT_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_pause", lambda attempt: None)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def get(tmp_path):
    def call(**options):
        folder = tmp_path / "data"
        return fetch(NAME, folder / "a.npz", folder / "a-val.npz", timeout=5, progress=False, **options)

    return call


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "data").glob("*"))


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_downloads_and_records(server, get, tmp_path, originals):
    record = tmp_path / "hashes.json"
    origins = get(known_hashes_path=record)
    assert origins == {TRAIN: f"{server.url}/{TRAIN}", VAL: f"{server.url}/{VAL}"}
    assert (tmp_path / "data" / "a.npz").read_bytes() == (originals / TRAIN).read_bytes()
    assert (tmp_path / "data" / "a-val.npz").read_bytes() == (originals / VAL).read_bytes()
    assert json.loads(record.read_text()) == {name: sha(originals / name) for name in (TRAIN, VAL)}
    assert files(tmp_path) == ["a-val.npz", "a.npz"]


def test_progress_is_a_line_for_each_file(server, tmp_path, capsys):
    server.faults[TRAIN] = ["break"]
    fetch(NAME, tmp_path / "a.npz", tmp_path / "a-val.npz")
    said = capsys.readouterr().err
    lines = [re.match(r"(\S+) (\S+)/(\S+) \| .* left \| .*B/s$", line).groups() for line in said.splitlines()]
    assert [name for name, _, _ in lines] == [TRAIN, VAL] and all(done == total for _, done, total in lines)


def test_recorded_hash_is_enforced(server, get, tmp_path, site):
    record = tmp_path / "hashes.json"
    get(known_hashes_path=record)
    arrays = dict(np.load(site / TRAIN))
    arrays["actions"][0, 0] = 0.25  # a valid file, but another one
    write_npz(site / TRAIN, arrays)
    before = (tmp_path / "data" / "a.npz").read_bytes()
    with pytest.raises(FLPError, match=rf"{TRAIN}.*another SHA-256"):
        get(known_hashes_path=record)
    assert (tmp_path / "data" / "a.npz").read_bytes() == before
    assert files(tmp_path) == ["a-val.npz", "a.npz"]


def test_all_that_is_recorded_at_once_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(number) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: fetching._record(pathlib.Path("data/hashes.json"), name, "0"), names))
    assert json.loads(pathlib.Path("data/hashes.json").read_text()) == dict.fromkeys(names, "0")


def test_a_bad_record_is_refused(server, get, tmp_path):
    (tmp_path / "hashes.json").write_text("[1]")
    with pytest.raises(FLPError, match="does not hold checksums"):
        get(known_hashes_path=tmp_path / "hashes.json")


def test_second_mirror_serves_after_404(server, get, site, originals, tmp_path):
    (site / TRAIN).unlink()
    mirror = site / "mirror"
    mirror.mkdir()
    (mirror / TRAIN).write_bytes((originals / TRAIN).read_bytes())
    origins = get(mirrors=[f"{server.url}/nothing/", f"{server.url}/mirror/"])
    assert origins == {TRAIN: f"{server.url}/mirror/{TRAIN}", VAL: f"{server.url}/{VAL}"}
    assert [path for path, _ in server.requests] == [f"/{TRAIN}", f"/nothing/{TRAIN}", f"/mirror/{TRAIN}", f"/{VAL}"]


def test_all_sources_are_named_when_all_fail(server, get, site, tmp_path):
    (site / VAL).unlink()
    with pytest.raises(FLPError) as caught:
        get(mirrors=[f"{server.url}/nothing"])
    message = str(caught.value)
    assert "\n" not in message and f"{server.url}/{VAL} answers 404" in message and "/nothing/" in message
    assert files(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("fault", ["break", "break with etag", 503, 429])
def test_flaky_server_is_asked_again(server, get, tmp_path, originals, fault):
    server.faults[TRAIN] = [fault, fault]
    get()
    assert (tmp_path / "data" / "a.npz").read_bytes() == (originals / TRAIN).read_bytes()
    spans = [span for path, span in server.requests if TRAIN in path]
    size = (originals / TRAIN).stat().st_size
    if fault == "break with etag":
        half = size // 2
        assert spans == [None, f"bytes={half}-", f"bytes={half + (size - half) // 2}-"]
    else:
        assert spans == [None] * 3


def test_retries_end(server, get, tmp_path):
    server.faults[TRAIN] = ["break"] * 9
    with pytest.raises(FLPError, match=r"breaks off 3 times \(\d+ bytes are missing\)"):
        get(retries=2)
    assert files(tmp_path) == []


@pytest.mark.parametrize(("fault", "words"), [(None, r"announces \d+ bytes"), ("unknown length", "sends")])
def test_a_file_of_any_size_is_not_taken(server, get, tmp_path, monkeypatch, fault, words):
    server.faults[TRAIN] = [fault]
    monkeypatch.setattr(fetching, "MAX_BYTES", 1000)
    with pytest.raises(FLPError, match=rf"{words},? more than any dataset has"):
        get()
    assert files(tmp_path) == []


def test_a_length_that_is_no_number_is_no_length(server, get, tmp_path, originals):
    server.faults[TRAIN] = ["unknown length"]
    get()
    assert (tmp_path / "data" / "a.npz").read_bytes() == (originals / TRAIN).read_bytes()


def test_server_that_is_down(server, get, tmp_path, monkeypatch):
    monkeypatch.setattr(ogbench.utils, "DATASET_URL", "http://127.0.0.1:9")
    with pytest.raises(FLPError, match="breaks off 2 times"):
        get(retries=1)
    assert get(retries=0, mirrors=[server.url])[TRAIN].startswith(server.url)


@pytest.mark.parametrize("damage", ["truncated", "tampered", "page", "other environment"])
def test_bad_files_are_refused_and_leave_nothing(server, get, tmp_path, site, damage):
    whole = (site / TRAIN).read_bytes()
    if damage == "truncated":
        (site / TRAIN).write_bytes(whole[:-500])
    elif damage == "tampered":
        (site / TRAIN).write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    elif damage == "page":
        (site / TRAIN).write_text("<html>welcome to this network</html>")
    else:
        arrays = dict(np.load(site / TRAIN))
        arrays["observations"] = np.repeat(arrays["observations"], 2, axis=1)
        write_npz(site / TRAIN, arrays)
    record = tmp_path / "hashes.json"
    with pytest.raises(FLPError, match=rf"{TRAIN} is bad: {TRAIN}"):
        get(known_hashes_path=record)
    assert files(tmp_path) == [] and not record.exists()


def test_cache_is_used_unless_bad(server, get, tmp_path, originals):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / TRAIN).write_bytes((originals / TRAIN).read_bytes())
    (cache / VAL).write_bytes(b"cut")
    assert get() == {TRAIN: str(cache / TRAIN), VAL: f"{server.url}/{VAL}"}
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://example.com/data", "file:///etc", "ftp://example.com", "/srv", "https"])
def test_insecure_mirrors_are_refused_before_any_request(server, get, url):
    with pytest.raises(FLPError, match="use https"):
        get(mirrors=[url])
    assert not server.requests


def test_redirects_stay_secure(server, get):
    server.faults[TRAIN] = ["insecure"]
    with pytest.raises(FLPError, match="redirects to an insecure address"):
        get()


def test_full_disk_is_reported_as_such(server, get, tmp_path, monkeypatch):
    def full(file, piece):
        raise FLPError("cannot write: No space left on device")

    monkeypatch.setattr(fetching, "_write", full)
    with pytest.raises(FLPError, match="No space left"):
        get(mirrors=[f"{server.url}/other"])
    assert len(server.requests) == 1, "another mirror would not help"
    assert files(tmp_path) == []


def test_an_address_may_hold_any_letters(server, site, get, tmp_path, originals):
    (site / "für uns").mkdir()
    for name in (TRAIN, VAL):
        (site / name).rename(site / "für uns" / name)
    get(mirrors=[f"{server.url}/für uns"])
    assert (tmp_path / "data" / "a.npz").read_bytes() == (originals / TRAIN).read_bytes()


def test_what_is_no_address_is_told_in_a_line(get):
    with pytest.raises(FLPError, match=r"'https://\[::1/x' is no address .*; correct it"):
        get(mirrors=["https://[::1/x"])
