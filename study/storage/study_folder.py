"""A study on disk or in a bucket: every file name, and how rows are written and read.

    <storage>/<study>/  study.yaml  manifest.json  driver.json
                        rows/<pack_id>.parquet
                        tune/<run>/
                        report/

A shard is written beside its place and then renamed (an object store shows only complete uploads), so that it exists
whole or not at all. It is named by a hash of its replicates, so that writing it twice changes nothing.
"""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from search_spaces.errors import MisuseError
from study.storage.schema import added, row_schema

DEFAULT_STORAGE = "ray_results"
EARLIER_FILE = "earlier.parquet"


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
    def at(cls, given: str | Path) -> Storage:
        """Open a storage. Raises MisuseError if the address cannot be opened."""
        text = str(given)
        if "@" in urlsplit(text).netloc:
            raise MisuseError(
                "the storage's URI holds credentials, but it is printed and stored. Give them by environment variables "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) on every node, or let the nodes' own role grant access."
            )
        try:
            if "://" in text:
                filesystem, root = fs.FileSystem.from_uri(text)
            else:
                filesystem, root = fs.LocalFileSystem(), str(Path(text).expanduser().absolute())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise MisuseError(
                f"storage={text!r} cannot be opened ({error}). Give a folder, or a URI such as s3://bucket/folder."
            ) from None
        return cls(text, filesystem, root.rstrip("/"))

    def study(self, name: str) -> StudyFolder:
        """The folder of a study, whether it exists or not."""
        return StudyFolder(self, name)

    def studies(self) -> list[str]:
        """Names of the existing studies."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return sorted(i.base_name for i in found if i.type == fs.FileType.Directory and self.study(i.base_name).exists())

    @property
    def is_local(self) -> bool:
        """Whether it is a path, on this machine alone or on a file system that several machines mount."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def place(self, name: str = "") -> str:
        """The storage, or what is in it, as a user or a worker in any directory would write it: a path, or a URI."""
        base, mark, options = self.given.partition("?") if "://" in self.given else (self.root, "", "")
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
        """Names of the files and folders in it; none if it does not exist."""
        found = self.storage.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return [info.base_name for info in found]

    # Small files

    def read_text(self, name: str) -> str | None:
        """The text of a small file such as study.yaml; None if it does not exist."""
        try:
            with self.storage.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                return stream.read().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """Write a small file whole. Raises MisuseError if the storage cannot be written."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """`write_text` for binary content, such as figures."""
        try:
            self._write(f"{self.path}/{name}", content)
        except OSError as error:
            raise MisuseError(
                f"storage={self.storage.given!r} cannot be written ({error}). Choose a folder that you can write to with --storage."
            ) from None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None if it does not exist or is incomplete."""
        text = self.read_text(name)
        try:
            return None if text is None else json.loads(text)
        except json.JSONDecodeError:
            return None

    def delete(self, name: str) -> None:
        """Remove a small file if it exists, and then the folder if it is empty."""
        if self._is_file(name):
            self.storage.filesystem.delete_file(f"{self.path}/{name}")
            if not self.listing():
                self.storage.filesystem.delete_dir(self.path)

    # Shards

    def write_shard(self, pack_id: str, rows: pa.Table) -> str:
        """Store a pack's rows; returns the shard's name within the study's folder."""
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
        name = f"rows/{pack_id}.parquet"
        self._write(f"{self.path}/{name}", buffer.getvalue())
        return name

    def write_earlier(self, rows: pa.Table) -> None:
        """Keep a copy of the rows of other studies that a search starts from, because those studies may grow or be deleted."""
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd")
        self._write(f"{self.path}/{EARLIER_FILE}", buffer.getvalue())

    def read_earlier(self) -> pa.Table | None:
        """The rows that `write_earlier` kept; None if there are none."""
        if not self._is_file(EARLIER_FILE):
            return None
        with self.storage.filesystem.open_input_file(f"{self.path}/{EARLIER_FILE}") as file:
            return pq.read_table(file)

    def shard_ids(self) -> list[str]:
        """Pack ids of all shards, readable or not."""
        found = self.storage.filesystem.get_file_info(fs.FileSelector(f"{self.path}/rows", allow_not_found=True))
        return sorted(i.base_name.removesuffix(".parquet") for i in found if i.base_name.endswith(".parquet"))

    def read_shards(self, columns: Sequence[str] | None = None) -> Shards:
        """All rows, each replicate once. Corrupt and half-written shards are listed, not read."""
        ids = self.shard_ids()
        with ThreadPoolExecutor(8) as pool:
            tables = dict(zip(ids, pool.map(lambda pack_id: self.read_shard(pack_id, columns), ids), strict=True))
        whole = {pack_id: table for pack_id, table in tables.items() if table is not None}
        rows = pa.concat_tables([row_schema(columns).empty_table(), *whole.values()])
        return Shards(_each_once(rows), tuple(whole), tuple(pack_id for pack_id in ids if pack_id not in whole))

    def read_shard(self, pack_id: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """One shard's rows; None if it is corrupt."""
        try:
            return self.read_whole_shard(pack_id, columns)
        except (pa.ArrowException, OSError, KeyError):  # what pyarrow raises for damaged bytes
            return None

    def read_whole_shard(self, pack_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's rows. Raises what pyarrow raises if it is corrupt or does not exist."""
        with self.storage.filesystem.open_input_file(f"{self.path}/rows/{pack_id}.parquet") as file:
            table = pq.read_table(file, page_checksum_verification=True, use_threads=False)
        for column in added():
            if column.name not in table.column_names:
                table = table.append_column(column.name, pa.nulls(len(table), column.type))
        schema = row_schema(columns)
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
            except OSError:
                if self._is_file(f"rows/{pack_id}.parquet"):
                    raise
                # else another driver has already moved it

    # Tune's folders

    @property
    def tune_path(self) -> str:
        """The folder of Tune's experiment folders, on the storage's file system."""
        return f"{self.path}/tune"

    def tune_runs(self) -> list[str]:
        """Paths of Tune's experiment folders, oldest first."""
        found = self.storage.filesystem.get_file_info(fs.FileSelector(self.tune_path, allow_not_found=True))
        return sorted(i.path for i in found if i.type == fs.FileType.Directory)

    def _is_file(self, name: str) -> bool:
        return self.storage.filesystem.get_file_info(f"{self.path}/{name}").type == fs.FileType.File

    def _write(self, path: str, content: bytes | pa.Buffer) -> None:
        filesystem, local = self.storage.filesystem, self.storage.is_local
        place = f"{path}.{uuid.uuid4().hex}.part" if local else path
        if local:
            filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with filesystem.open_output_stream(place) as stream:
            stream.write(content)
        if local:
            filesystem.move(place, path)


def _each_once(rows: pa.Table) -> pa.Table:
    """The first row of each replicate_id, in the order of the table. Measured rows take precedence over crashed ones."""
    if pc.count_distinct(rows["replicate_id"]).as_py() == len(rows):
        return rows
    if "failure" in rows.column_names:
        crashed = pc.equal(rows["failure"], "crashed")
        rows = pa.concat_tables([rows.filter(pc.invert(crashed)), rows.filter(crashed)])
    ids = rows["replicate_id"].combine_chunks()
    first = np.unique(ids.to_numpy(zero_copy_only=False).astype(str), return_index=True)[1]
    return rows.take(pa.array(np.sort(first)))
