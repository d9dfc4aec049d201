"""Fetching OGBench's dataset files from its cache or a server, and refusing bad ones.

Not with pooch or fsspec, which do not resume files, requests, which ignores the system's certificates, or urllib3,
which ignores the system's proxies.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import random
import shutil
import string
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from flp.data.archive import MAX_BYTES
from flp.data.environments import simulator_importable, specification
from flp.data.load import validate
from flp.system.artifacts import read_json, write_json, write_verified
from flp.system.errors import FLPError, explained
from flp.system.hashing import sha256_of
from flp.system.locks import alone
from flp.system.progress import Progress

_PIECE = 2**20
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which a retry is worthwhile."""


class _SourceFailedError(Exception):
    """A source cannot provide the file; another one may."""


def fetch(
    dataset: str,
    train_path: Path | str,
    val_path: Path | str,
    *,
    mirrors: Sequence[str] = (),
    known_hashes_path: Path | None = None,
    timeout: float = 60.0,
    retries: int = 4,
    progress: bool = True,
) -> dict[str, str]:
    """Get a dataset's official files: from OGBench's cache folder, its server, or the mirrors, in this order.

    A file arrives whole or not at all: its checksum is compared if one is known, it is validated from end to end, and
    only then moved into place. Broken downloads resume where they stopped if the server supports it.

    Args:
        dataset: name of the dataset.
        train_path: destination of `{dataset}-v0.npz`.
        val_path: destination of `{dataset}-v0-val.npz`.
        mirrors: URLs of folders with files of the same names, https (or http on this machine).
        known_hashes_path: JSON file of checksums by file name; they are checked, and new ones are added.
        timeout: seconds without data after which a connection counts as broken.
        retries: further attempts at each source after a broken connection.
        progress: whether to show the progress.

    Returns:
        Where each file came from, by file name.

    Raises:
        FLPError: no source provided a good file (one line, with each source's reason), or a bad argument.
    """
    spec = specification(dataset)
    with simulator_importable():
        import ogbench.utils  # here, as it takes a while

    folders = [ogbench.utils.DATASET_URL, *mirrors]
    for folder in folders:
        _check_url(folder)
    known = _recorded(known_hashes_path) if known_hashes_path else {}
    origins = {}
    for suffix, target in (("", Path(train_path)), ("-val", Path(val_path))):
        name = f"{spec.dataset}-v0{suffix}.npz"
        # Without a home directory `~` is left as it is, and no such file exists.
        cached = Path(os.path.expanduser(ogbench.utils.DEFAULT_DATASET_DIR)) / name  # noqa: PTH111
        sources = [str(cached)] if cached.exists() else []
        sources += [f"{folder.rstrip('/')}/{name}" for folder in folders]
        getter = _Getter(name, dataset, known.get(name), timeout, retries, progress)
        origins[name], digest = getter.get(sources, target)
        if known_hashes_path and name not in known:
            _record(known_hashes_path, name, digest)
    return origins


def _recorded(path: Path) -> dict[str, str]:
    """Checksums recorded earlier, by file name."""
    checksums = read_json(path) if path.exists() else {}
    if not isinstance(checksums, dict) or not all(isinstance(value, str) for value in checksums.values()):
        raise FLPError(f"{path} does not hold checksums by file name; mend or delete it")
    return checksums


def _record(path: Path, name: str, digest: str) -> None:
    """Add a checksum; jobs that finish at the same time wait for each other."""
    with alone(str(path)):
        write_json(path, _recorded(path) | {name: digest})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise FLPError(f"'{url}' is no address ({error}); correct it") from None
    if not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))):
        raise FLPError(f"'{url}' is not an https:// address; use https (http only on this machine)")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only to encrypted connections."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            _check_url(newurl)
        except FLPError as error:
            raise _SourceFailedError(f"redirects to an insecure address ({newurl})") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class _Getter:
    """Gets one file from the first source that has a good copy."""

    name: str
    dataset: str
    expected: str | None
    timeout: float
    retries: int
    progress: bool

    def get(self, sources: list[str], target: Path) -> tuple[str, str]:
        """Return `(source, SHA-256)`."""
        failures = []
        for source in sources:
            try:
                return source, write_verified(target, partial(self._get_from, source))
            except _SourceFailedError as error:
                failures.append(f"{source} {error}")
        raise FLPError(
            f"cannot get {self.name}: {'; '.join(failures)}; check the connection, name a mirror, or use a "
            "file you have (source 'path')"
        )

    def _get_from(self, source: str, temporary: Path) -> None:
        if "://" in source:
            self._download(source, temporary)
        else:
            shutil.copyfile(source, temporary)
        if self.expected is not None and sha256_of(temporary) != self.expected:
            raise _SourceFailedError(f"has another SHA-256 than {self.expected[:12]}... (altered or replaced)")
        try:
            validate(temporary, self.dataset, "another copy may be whole")
        except FLPError as error:
            raise _SourceFailedError(f"is bad: {error}".replace(str(temporary), self.name)) from error

    def _download(self, url: str, temporary: Path) -> None:
        with open(temporary, "wb") as file, Progress(self.name, None, "B", quiet=not self.progress) as bar:
            download = _Download(quote(url, safe=string.punctuation), file, self.timeout, bar)
            for attempt in range(self.retries + 1):
                try:
                    download.resume()
                    return
                except (OSError, http.client.HTTPException) as error:
                    if isinstance(error, urllib.error.HTTPError) and error.code not in _TEMPORARY:
                        raise _SourceFailedError(f"answers {error.code} {error.reason}") from error
                    if attempt == self.retries:
                        raise _SourceFailedError(f"breaks off {attempt + 1} times ({error})") from error
                    _pause(attempt)


def _pause(attempt: int) -> None:
    """Wait 1, 2, 4, … seconds, at most 30, with jitter so that many jobs do not return at once."""
    time.sleep(min(30, 2**attempt) * random.uniform(0.75, 1.25))


@dataclass
class _Download:
    """A download that resumes where it stopped, if the server confirms that the file is still the same."""

    url: str
    file: IO[bytes]
    timeout: float
    bar: Progress
    version: str | None = None

    def resume(self) -> None:
        """Receive the rest of the file; raises `OSError` or `HTTPException` if the connection breaks."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "flp"})
        if self.file.tell() and self.version:
            request.add_header("Range", f"bytes={self.file.tell()}-")
            request.add_header("If-Range", self.version)
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=self.timeout) as response:
            self._place(response)
            if response.length is not None:  # bytes still to come, if the server says
                self.bar.total = self.file.tell() + response.length
                if self.bar.total > MAX_BYTES:
                    raise _SourceFailedError(f"announces {self.bar.total} bytes, more than any dataset has")
            while piece := response.read(_PIECE):
                if self.file.tell() + len(piece) > MAX_BYTES:
                    raise _SourceFailedError("sends more than any dataset has")
                _write(self.file, piece)
                self.bar.update(self.file.tell())
            if response.length:
                raise ConnectionError(f"{response.length} bytes are missing")

    def _place(self, response: Any) -> None:
        """Stay at the end of the file if the server continues there, else start over."""
        start = f"bytes {self.file.tell()}-"
        if not (response.status == 206 and response.headers.get("Content-Range", "").startswith(start)):
            self.file.seek(0)
            self.file.truncate()
            etag = response.headers.get("ETag")
            self.version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _write(file: IO[bytes], piece: bytes) -> None:
    """Write; a full disk must not be mistaken for a broken connection."""
    try:
        file.write(piece)
    except OSError as error:
        raise FLPError(f"cannot write {file.name}: {explained(error)}") from error
