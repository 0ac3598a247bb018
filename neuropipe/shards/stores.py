"""Files at an address that fsspec understands: read by ranges that go on after an error, written whole.

Retries are made here and nowhere below, so that a run's log says how often a store failed.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from neuropipe.errors import InputError

log = logging.getLogger("neuropipe")

BLOCK_BYTES = 16 * 2**20  # of one request
N_TRIES = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0  # doubled from one try to the next
TIMEOUT_S = 60
# What a second try does not mend.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, AttributeError, TypeError, InputError)
FINAL_STATUS = (401, 403, 404, 410)

Result = TypeVar("Result")


def is_local(url: str | Path) -> bool:
    """Return whether an address is a path of this machine."""
    return "://" not in str(url) or str(url).startswith("file://")


def _options(url: str) -> dict[str, Any]:
    if url.startswith("s3://"):
        client = {"retries": {"max_attempts": 0}, "connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S}
        return {"config_kwargs": client, "use_listings_cache": False}
    return {}


@dataclass(frozen=True)
class Store:
    """A folder at an address: ``s3://bucket/prefix``, ``gs://``, ``https://`` or a path.

    Attributes
    ----------
    url : str
    first_wait_s : float
        Wait before the second try, in seconds; doubled from one to the next.

    Raises
    ------
    InputError
        The address holds a password or a signature.
    """

    url: str
    first_wait_s: float = FIRST_WAIT_S

    def __post_init__(self) -> None:
        """Refuse what must not be written down: addresses stand in logs, ``remote.json`` and provenance."""
        parts = urlsplit(self.url) if not is_local(self.url) else None
        if parts is not None and (parts.query or "@" in parts.netloc):
            raise InputError(
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}: the address holds a password or signature, which "
                "logs and tables would keep. Leave it out, and give credentials to the backend (AWS_PROFILE, ...)."
            )

    def path(self, name: str) -> str:
        """Return the address of a file of the folder."""
        return f"{self.url.rstrip('/')}/{name}"

    def _file(self, name: str) -> tuple[Any, str]:
        """Return fsspec's file system and the path of a file in it."""
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(self.path(name), **_options(self.url))
        except (ImportError, ValueError) as error:  # no fsspec, no backend, or no such protocol
            raise InputError(
                f"{self.url} cannot be read here: {error}. Install what reads it: pip install 'neuropipe[stores]' for "
                "s3:// and https://, pip install gcsfs for gs://."
            ) from error

    def _tried(self, what: str, attempt: Callable[[], Result]) -> Result:
        """Return what `attempt` returns; after an error that may pass it is made again, after growing waits."""
        wait_s = self.first_wait_s
        for n in range(1, N_TRIES + 1):
            try:
                return attempt()
            except FINAL:
                raise
            except Exception as error:  # every backend has errors of its own
                if getattr(error, "status", None) in FINAL_STATUS:
                    raise PermissionError(f"{type(error).__name__}: {error}") from error
                if n == N_TRIES:
                    raise InputError(
                        f"{what} failed {N_TRIES} times, at last with {type(error).__name__}: {error}. Check network, "
                        "credentials and address; what has arrived is kept, and the same command goes on from there."
                    ) from error
                log.warning("%s: %s: %s; again in %g s", what, type(error).__name__, error, wait_s)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise AssertionError("the last try returns or raises")

    def block(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Return the bytes from `start` to `stop` of a file of `size` bytes; a shorter answer is asked for again.

        Of a server that knows no ranges and sends the whole file, all from `start` on is returned.
        """
        system, path = self._file(name)

        def attempt() -> bytes:
            found = system.cat_file(path, start=start, end=stop)
            if len(found) == size:
                return found[start:]
            if len(found) != stop - start:
                raise ConnectionError(f"expected {stop - start} bytes from {start} on, found {len(found)}")
            return found

        try:
            return self._tried(self.path(name), attempt)
        except (FileNotFoundError, PermissionError) as error:
            raise InputError(
                f"{self.path(name)} is not there, or may not be read with these credentials: {error}. Check both; what "
                "was published anew needs `neuropipe fetch` again."
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return a small file; None where there is none, which many servers tell as one that may not be read."""
        system, path = self._file(name)
        try:
            return self._tried(self.path(name), lambda: system.cat_file(path))
        except (FileNotFoundError, PermissionError):
            return None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where there is none."""
        system, path = self._file(name)
        try:
            return self._tried(self.path(name), lambda: system.info(path)["size"])
        except (FileNotFoundError, PermissionError):
            return None

    def write_text(self, name: str, content: str) -> None:
        """Write a small file there."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / name
            source.write_text(content, encoding="utf-8")
            self.write(name, source)

    def write(self, name: str, source: str | Path) -> None:
        """Copy a file of this machine there; raise where the size that arrived is another."""
        system, path = self._file(name)
        expected = Path(source).stat().st_size

        def attempt() -> None:
            if is_local(self.url):
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.put_file(str(source), path)
            if (found := system.info(path)["size"]) != expected:
                raise ConnectionError(f"expected {expected} bytes, found {found}")

        try:
            self._tried(self.path(name), attempt)
        except (FileNotFoundError, PermissionError) as error:
            raise InputError(
                f"{self.path(name)} cannot be written: {error}. Check that the bucket exists and your rights to it."
            ) from error
