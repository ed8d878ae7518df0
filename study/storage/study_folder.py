"""A study on disk or in a bucket: every file name, and how rows are written and read.

    <storage>/<study>/  study.yaml  manifest.json  driver.json
                        rows/<pack_id>.parquet
                        tune/<run>/
                        report/

A shard is written beside its place and then renamed (an object store shows only complete uploads), so that it exists
whole or not at all. It is named by a hash of its replicates, so that writing it twice changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from search_spaces.errors import MachineError, MisuseError, reason
from search_spaces.paths import Given, local_path, scheme_of, shown, written
from study.storage.local_files import PART, probe, sweep, write_whole
from study.storage.schema import added, row_schema

DEFAULT_STORAGE = "ray_results"
EARLIER_FILE = "earlier.parquet"
WRITE_AGAIN_AFTER = (0.5, 2.0)
"""Seconds between attempts to write a shard: a storage may fail for a moment, and its rows took long to train."""


@dataclass(frozen=True)
class Shards:
    """The result of reading all shards of a study."""

    rows: pa.Table
    names: tuple[str, ...]
    """Pack ids of the shards that were read."""
    unreadable: tuple[str, ...]
    """Pack ids of shards that are corrupt; their rows are missing."""


@dataclass(frozen=True)
class Storage:
    """Where studies live: a local path, or any URI that pyarrow's file systems read."""

    given: str
    filesystem: fs.FileSystem = field(compare=False)
    root: str

    @classmethod
    def at(cls, given: Given) -> Storage:
        """Open a storage, which need not exist yet. Raises MisuseError if there is none at the address, and none can be."""
        text = written(given, "storage")
        scheme = scheme_of(text)
        if scheme in (None, "file"):
            root = local_path(text, "storage").absolute()
            _refuse_no_folder(root, text)
            return cls(text, fs.LocalFileSystem(), str(root).rstrip("/"))
        try:
            if "@" in urlsplit(text).netloc:
                raise MisuseError(
                    "the storage's URI holds credentials, but it is printed and stored. Give them by environment variables "
                    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) on every node, or let the nodes' own role grant access."
                )
            filesystem, place = fs.FileSystem.from_uri(f"{scheme}{text[len(scheme) :]}")
        except MisuseError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise MisuseError(
                f"storage={shown(text)} cannot be opened ({reason(error)}). Give a folder, or a URI such as s3://bucket/folder."
            ) from None
        if not place.strip("/"):
            raise MisuseError(f"storage={shown(text)} names no bucket. Give a URI such as s3://bucket/folder.")
        return cls(text, filesystem, place.rstrip("/"))

    def study(self, name: str) -> StudyFolder:
        """The folder of a study, whether it exists or not."""
        return StudyFolder(self, name)

    def studies(self) -> list[str]:
        """Names of the existing studies."""
        with self.faults("read"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
            return sorted(i.base_name for i in found if i.type == fs.FileType.Directory and self.study(i.base_name).exists())

    @contextlib.contextmanager
    def faults(self, verb: str) -> Iterator[None]:
        """A context whose OSErrors become the MachineError that this storage cannot be `verb` (read, written)."""
        try:
            yield
        except OSError as error:
            raise MachineError(f"storage={shown(self.given)} cannot be {verb} ({reason(error)}).") from error

    @property
    def is_local(self) -> bool:
        """Whether it is a path, on this machine alone or on a file system that several machines mount."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def place(self, name: str = "") -> str:
        """The storage, or what is in it, as a user or a worker in any directory would write it: a path, or a URI."""
        base, mark, options = (self.root, "", "") if self.is_local else self.given.partition("?")
        return f"{base.rstrip('/')}/{name}".rstrip("/") + mark + options


@dataclass(frozen=True)
class StudyFolder:
    """One study's files. All file names are made here."""

    storage: Storage
    name: str

    @property
    def path(self) -> str:
        """The folder's path on the storage's file system."""
        return f"{self.storage.root}/{self.name}"

    def place(self, name: str = "") -> str:
        """The folder, or a file in it, as a user would write it: a path, or a URI."""
        return self.storage.place(f"{self.name}/{name}")

    def exists(self) -> bool:
        return self._is_file("study.yaml")

    def command(self, verb: str) -> str:
        """The command that does `verb` to this study, as a user would type it."""
        where = "" if self.storage.given == DEFAULT_STORAGE else f" --storage {shlex.quote(self.storage.given)}"
        return f"sae-study {verb} {self.name}{where}"

    def listing(self) -> list[str]:
        """Names of the files and folders in it; none if it does not exist. MisuseError if a file has its name."""
        with self.storage.faults("read"):
            if self.storage.filesystem.get_file_info(self.path).type == fs.FileType.File:
                raise MisuseError(f"{self.place()} is a file, and a study is a folder. Choose another --name or --storage.")
            found = self.storage.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return [info.base_name for info in found]

    # Small files

    def read_text(self, name: str) -> str | None:
        """The text of a small file such as study.yaml; None if it does not exist."""
        content = self.read_bytes(name)
        return None if content is None else content.decode()

    def read_bytes(self, name: str) -> bytes | None:
        """`read_text` for binary content."""
        with self.storage.faults("read"):
            try:
                with self.storage.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                    content: bytes = stream.read()
                    return content
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write_text(self, name: str, text: str) -> None:
        """Write a small file whole. Raises MachineError if the storage cannot be written."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes | pa.Buffer) -> None:
        """`write_text` for binary content, such as figures."""
        with self.storage.faults("written"):
            self._write(f"{self.path}/{name}", content)

    def write_over(self, name: str, text: str) -> None:
        """Write a small file over the old one, which a disk that is full allows; a reader at that moment may see a part of it.

        Raises MachineError.
        """
        with self.storage.faults("written"):
            if not self.storage.is_local:
                raise OSError("an object store has no such writes")
            with open(f"{self.path}/{name}", "r+b", buffering=0) as file:
                file.write(text.encode())
                file.truncate()

    def refuse_unwritable(self, folder: str = "", remedy: str = "Choose a folder that you can write to with --storage.") -> None:
        """Make the study's folder, or one in it, and raise MisuseError with this remedy if it cannot be written to."""
        try:
            with self.storage.faults("written"):
                self._probe(f"{self.path}/{folder}".rstrip("/"))
        except MachineError as error:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)  # if it is empty, it was made here
            raise MisuseError(f"{error} {remedy}") from None

    def refuse_gone(self) -> None:
        """Raise MachineError if the study is not there any more, so that nobody writes to what is there instead."""
        if not self.exists():
            raise MachineError(f"{self.place('study.yaml')} is gone: the study was deleted, renamed or unmounted while it ran.")

    def refuse_inaccessible(self) -> None:
        """Raise MisuseError if this user may not write there. Nothing is tried: that is for `refuse_unwritable`."""
        if self.storage.is_local:
            there = next(place for place in (Path(self.path), *Path(self.path).parents) if os.path.exists(place))
            if not os.access(there, os.W_OK | os.X_OK):
                raise MisuseError(
                    f"storage={shown(self.storage.given)} cannot be written: {there} is not yours to write to. Choose a folder "
                    "that is with --storage."
                )

    def sweep(self, alone: bool) -> None:
        """Remove what processes that were killed while they wrote have left; alone: whether no other driver is at work here."""
        if self.storage.is_local:
            here = Path(self.path)
            for own in (here, here / "rows"):
                sweep(own.glob(f"*{PART}"), **({"age": 0.0} if alone else {}))
            sweep((here / "report").glob(f"*{PART}"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None if it does not exist or is incomplete."""
        text = self.read_text(name)
        try:
            return None if text is None else json.loads(text)
        except json.JSONDecodeError:
            return None

    def delete(self, name: str) -> None:
        """Remove a small file if it exists, and then the folder if it is empty."""
        with self.storage.faults("written"):
            if self._is_file(name):
                self.storage.filesystem.delete_file(f"{self.path}/{name}")
                if not self.listing():
                    self.storage.filesystem.delete_dir(self.path)

    # Shards

    def write_shard(self, pack_id: str, rows: pa.Table) -> str:
        """Store a pack's rows; returns the shard's name within the study's folder. Raises MachineError after some attempts."""
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
        name = f"rows/{pack_id}.parquet"
        for pause in WRITE_AGAIN_AFTER:
            with contextlib.suppress(MachineError):
                self.write_bytes(name, buffer.getvalue())
                return name
            time.sleep(pause)
        self.write_bytes(name, buffer.getvalue())
        return name

    def write_earlier(self, rows: pa.Table) -> None:
        """Keep a copy of the rows of other studies that a search starts from, because those studies may grow or be deleted."""
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd")
        self.write_bytes(EARLIER_FILE, buffer.getvalue())

    def read_earlier(self) -> pa.Table | None:
        """The rows that `write_earlier` kept; None if there are none."""
        if not self._is_file(EARLIER_FILE):
            return None
        with self.storage.filesystem.open_input_file(f"{self.path}/{EARLIER_FILE}") as file:
            return pq.read_table(file)

    def shard_ids(self) -> list[str]:
        """Pack ids of all shards, readable or not."""
        return sorted(self.shard_stamps())

    def shard_stamps(self) -> dict[str, tuple[int, int | None]]:
        """The size and time of every shard, by pack id: a shard that is written again has another time."""
        with self.storage.faults("read"):
            found = self.storage.filesystem.get_file_info(fs.FileSelector(f"{self.path}/rows", allow_not_found=True))
        shards = (info for info in found if info.extension == "parquet")
        return {info.base_name.removesuffix(".parquet"): (info.size, info.mtime_ns) for info in shards}

    def read_shards(self, columns: Sequence[str] | None = None) -> Shards:
        """All rows, each replicate once. Shards that are corrupt in these columns, or half-written, are listed, not read."""
        ids = self.shard_ids()
        with ThreadPoolExecutor(8) as pool:
            tables = dict(zip(ids, pool.map(lambda pack_id: self.read_shard(pack_id, columns), ids), strict=True))
        whole = {pack_id: table for pack_id, table in tables.items() if table is not None}
        rows = pa.concat_tables([row_schema(columns).empty_table(), *whole.values()])
        return Shards(each_once(rows), tuple(whole), tuple(pack_id for pack_id in ids if pack_id not in whole))

    def corrupt_shards(self) -> list[str]:
        """Pack ids of the shards that are corrupt in any column. Reads all of every shard, a few at a time."""
        ids = self.shard_ids()
        with ThreadPoolExecutor(4) as pool:
            whole = list(pool.map(lambda pack_id: self.read_shard(pack_id) is not None, ids))
        return [pack_id for pack_id, readable in zip(ids, whole, strict=True) if not readable]

    def read_shard(self, pack_id: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """One shard's rows; None if it is corrupt. Raises MachineError if it may not be read, and nobody can tell."""
        try:
            return self.read_whole_shard(pack_id, columns)
        except PermissionError as error:
            raise MachineError(f"storage={shown(self.storage.given)} cannot be read ({reason(error)}).") from None
        except (pa.ArrowException, OSError, KeyError):  # what pyarrow raises for damaged bytes
            return None

    def read_whole_shard(self, pack_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's rows. Only these columns are read and checked. Raises what pyarrow raises if it is corrupt or gone."""
        schema = row_schema(columns)
        with self.storage.filesystem.open_input_file(f"{self.path}/rows/{pack_id}.parquet") as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)
            there = set(file.schema_arrow.names)
            table = file.read([name for name in schema.names if name in there], use_threads=False)
        for column in added():
            if column.name in schema.names and column.name not in there:
                table = table.append_column(column.name, pa.nulls(len(table), column.type))
        return table.select(schema.names).cast(schema)

    def columns_of(self, replicate_id: str) -> set[str]:
        """The columns that the shards of this replicate have: all except those that were added after they were written."""
        of_shards = []
        for pack_id in self.shard_ids():
            if (rows := self.read_shard(pack_id, ["replicate_id"])) is not None and replicate_id in rows[0].to_pylist():
                with self.storage.filesystem.open_input_file(f"{self.path}/rows/{pack_id}.parquet") as file:
                    of_shards.append(set(pq.read_schema(file).names))
        return set.intersection(*of_shards) if of_shards else set()

    def set_aside(self, pack_ids: Iterable[str]) -> None:
        """Rename corrupt shards, so that their replicates count as missing and nothing is destroyed."""
        for pack_id in pack_ids:
            shard = f"{self.path}/rows/{pack_id}.parquet"
            try:
                self.storage.filesystem.move(shard, f"{shard}.corrupt")
            except OSError as error:
                if self._is_file(f"rows/{pack_id}.parquet"):
                    raise MachineError(f"storage={shown(self.storage.given)} cannot be written ({reason(error)}).") from error
                # else another driver has already moved it

    # Tune's folders

    @property
    def tune_path(self) -> str:
        """The folder of Tune's experiment folders, on the storage's file system."""
        return f"{self.path}/tune"

    def tune_runs(self) -> list[str]:
        """Paths of Tune's experiment folders, oldest first."""
        with self.storage.faults("read"):
            found = self.storage.filesystem.get_file_info(fs.FileSelector(self.tune_path, allow_not_found=True))
        return sorted(i.path for i in found if i.type == fs.FileType.Directory)

    def discard_if_gone(self, run: str) -> None:
        """Where the study itself is gone, remove the folder that Tune has made anew for this run, and what is empty around it."""
        with contextlib.suppress(MachineError):
            if self.storage.is_local and not self.exists():
                shutil.rmtree(f"{self.tune_path}/{run}", ignore_errors=True)
                for empty in (self.tune_path, f"{self.path}/rows", self.path):
                    with contextlib.suppress(OSError):
                        os.rmdir(empty)

    def _is_file(self, name: str) -> bool:
        with self.storage.faults("read"):
            return self.storage.filesystem.get_file_info(f"{self.path}/{name}").type == fs.FileType.File

    def _write(self, path: str, content: bytes | pa.Buffer) -> None:
        if self.storage.is_local:
            file = Path(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda part: part.write_bytes(content))
        else:
            with self.storage.filesystem.open_output_stream(path) as stream:
                stream.write(content)

    def _probe(self, folder: str) -> None:
        if self.storage.is_local:
            Path(folder).mkdir(parents=True, exist_ok=True)
            probe(Path(folder))
        else:
            name = f"{folder}/probe.{uuid.uuid4().hex}"
            self._write(name, b"")
            self.storage.filesystem.delete_file(name)


def _refuse_no_folder(root: Path, given: str) -> None:
    """Raise MisuseError if no folder is there and none can be made: a file or a broken link is, or a folder cannot be entered."""
    try:
        there = next(place for place in (root, *root.parents) if _is_there(place))
        if there.is_dir():
            return
        why = f"{there} is a link that leads nowhere" if there.is_symlink() else f"{there} is a file"
    except OSError as error:
        why = reason(error)
    raise MisuseError(f"storage={shown(given)} is no folder and cannot become one ({why}). Give a folder.")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def each_once(rows: pa.Table) -> pa.Table:
    """The first row of each replicate_id, in the order of the table. Measured rows take precedence over crashed ones."""
    if len(rows["replicate_id"].unique()) == len(rows):
        return rows
    if "failure" in rows.column_names:
        crashed = rows["failure"].to_numpy() == "crashed"
        rows = pa.concat_tables([rows.filter(~crashed), rows.filter(crashed)])
    ids = rows["replicate_id"].combine_chunks().dictionary_encode().indices
    first = np.unique(ids.to_numpy(), return_index=True)[1]
    return rows.take(pa.array(np.sort(first)))
