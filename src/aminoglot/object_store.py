"""Object stores: ``s3://bucket/key``, through pyarrow's file system.

Credentials, region and endpoint come from the usual environment (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``, the machine's role, ...), and from nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aminoglot.errors import AminoglotError, InputError, OutputError, first_line

SCHEME = "s3://"
_CONNECT, _SILENT, _TRIES = 10.0, 30.0, 4
"""Seconds until a store must have answered, seconds it may stay silent in between, and how often it is asked."""
_SAID = {
    "NETWORK_CONNECTION": "cannot be reached; is the network up, and AWS_ENDPOINT_URL right?",
    "ACCESS_DENIED": "refuses the credentials of this environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, a role ...)",
    "INVALID_ACCESS_KEY_ID": "does not know the credentials of this environment (AWS_ACCESS_KEY_ID ...)",
    "SIGNATURE_DOES_NOT_MATCH": "refuses the secret key of this environment (AWS_SECRET_ACCESS_KEY)",
    "NO_SUCH_BUCKET": "has no such bucket",
    "NO_SUCH_KEY": "has no such object",
    "SLOW_DOWN": "asks for fewer requests, again and again; try later",
}
"""What a code of the store means; what else it says may hold addresses and keys, and is not repeated."""


def is_stored(name: str | Path) -> bool:
    """Whether this names something in an object store."""
    return str(name).startswith(SCHEME)


@dataclass(frozen=True)
class ObjectStore:
    """A prefix of an object store's keys, used like a folder. It connects when it is first asked for something.

    Attributes:
        url: ``s3://bucket/prefix``.

    Raises:
        InputError: for what is no such address, or holds credentials.
    """

    url: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^?]*)?", self.url):
            hint = "; leave credentials to the environment" if re.search("[@?]", self.url) else ""
            shown = re.sub(r"[?].*", "?...", re.sub(r"//[^/]*@", "//...@", self.url))
            raise InputError(f"{shown}: an object of a store is named s3://bucket/name{hint}")

    @property
    def _root(self) -> str:
        return self.url.removeprefix(SCHEME).rstrip("/")

    @cached_property
    def _files(self) -> Any:
        """Opened once a process; a copy in another process opens its own."""
        from pyarrow import fs

        asked: dict[str, Any] = {}
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise InputError("AWS_ENDPOINT_URL: write it with http:// or https:// before the host")
            asked = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            asked["region"] = region
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES)
        return fs.S3FileSystem(connect_timeout=_CONNECT, request_timeout=_SILENT, retry_strategy=retry, **asked)

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        object.__setattr__(self, "url", state["url"])

    def child(self, name: str) -> ObjectStore:
        """A prefix below this one."""
        return ObjectStore(f"{SCHEME}{self._root}/{name}")

    @property
    def parent(self) -> ObjectStore:
        """The prefix, or bucket, that this lies in."""
        return ObjectStore(self.url.rstrip("/").rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self._root.rpartition("/")[2]

    def put(self, path: Path, name: str) -> None:
        """Write a local file as an object, whole or not at all.

        Raises:
            OutputError: when the store refuses or cannot be reached.
        """
        from pyarrow import fs

        key = f"{self._root}/{name}"
        with self._explained(name, OutputError):
            fs.copy_files(str(path), key, fs.LocalFileSystem(), self._files)
            made, size = self._files.get_file_info(key).size, path.stat().st_size
            if made != size:  # the local file changed, or could not be read to its end
                with suppress(OSError):
                    self._files.delete_file(key)
                raise OutputError(f"{self.url}/{name}: {made:,} of {size:,} bytes arrived; it was taken back")

    def get(self, name: str, path: Path, error: type[AminoglotError] = OutputError) -> bool:
        """Fetch an object into a local file, whole or not at all; False where there is none of that name.

        Raises:
            OutputError: when the store refuses or cannot be reached; or another kind of error, as asked.
        """
        from pyarrow import fs

        key = f"{self._root}/{name}" if name else self._root
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with self._explained(name, error):
            if self._files.get_file_info(key).type != fs.FileType.File:
                return False
            try:
                fs.copy_files(key, str(partial), self._files, fs.LocalFileSystem())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return True

    def sizes(self, error: type[AminoglotError] = OutputError) -> dict[str, int]:
        """What lies right below, by name, in bytes.

        Raises:
            OutputError: when the store refuses or cannot be reached; or another kind of error, as asked.
        """
        from pyarrow import fs

        with self._explained("", error):
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
            return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def delete(self, names: Sequence[str]) -> None:
        """Delete some objects; those that are gone already are no error.

        Raises:
            OutputError: when the store refuses or cannot be reached.
        """
        with self._explained("", OutputError):
            for name in names:
                with suppress(FileNotFoundError):
                    self._files.delete_file(f"{self._root}/{name}")

    def remove(self) -> None:
        """Delete everything below.

        Raises:
            OutputError: when the store refuses or cannot be reached.
        """
        with self._explained("", OutputError), suppress(FileNotFoundError):
            self._files.delete_dir(self._root)

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """An object for reading from any place, as pyarrow does.

        Raises:
            OutputError: when there is none, or the store refuses or cannot be reached.
        """
        with self._explained(name, OutputError), self._files.open_input_file(f"{self._root}/{name}") as file:
            yield file

    @contextmanager
    def _explained(self, name: str, kind: type[AminoglotError]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.url.rstrip('/')}/{name}" if name else self.url
            raise kind(f"{where}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    code = re.search(r"AWS Error (\w+)", str(error))
    if code is None:
        return f"cannot be read or written ({error.strerror or first_line(error)})"
    name = code.group(1)
    return f"the store {_SAID.get(name, f'says {name}, after {_TRIES} tries')}"
