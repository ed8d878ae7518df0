"""Files are whole or absent, and what cannot be written is refused before the work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from search_spaces.errors import MachineError, MisuseError
from study.storage.local_files import refuse_unwritable_file, refuse_unwritable_folder, sweep, write_out, write_whole


def test_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    """Also if it is Ctrl-C that ends it."""
    file = tmp_path / "rates.csv"
    write_whole(file, lambda part: part.write_text("old"))
    for raised, told in ((OSError(28, "No space left"), MachineError), (KeyboardInterrupt(), KeyboardInterrupt)):

        def fail(part: Path, raised: BaseException = raised) -> None:
            part.write_text("half")
            raise raised

        with pytest.raises(told):
            write_out(file, "--out", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["rates.csv"]
    assert file.read_text() == "old"


def test_link_and_pipe_stay_what_they_are(tmp_path: Path) -> None:
    """The file behind a link is replaced; a pipe is written to."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    refuse_unwritable_file(tmp_path / "link", "--out")
    write_whole(tmp_path / "link", lambda part: part.write_text("x"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    refuse_unwritable_file(tmp_path / "pipe", "--out")
    write_whole(tmp_path / "pipe", lambda part: part.write_text("y"))
    reader.join()
    assert read == ["y"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A missing folder, a folder where a file is meant, a file where a folder is meant, a circular link."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for place in ("absent/x.csv", "folder", "file/x.csv", "circle", "x" * 300):
        with pytest.raises(MisuseError, match="cannot be written"):
            refuse_unwritable_file(tmp_path / place, "--out")
    for place in ("file", "file/x", "circle", "x" * 300):
        with pytest.raises(MisuseError, match="cannot be written"):
            refuse_unwritable_folder(tmp_path / place, "--out")
    assert sorted(os.listdir(tmp_path)) == ["circle", "file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


def test_old_parts_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    """A young one may be another process's, which is still writing."""
    old, young, other = (tmp_path / name for name in ("r.csv.1.part", "r.csv.2.part", "q.csv.1.part"))
    for part in (old, young, other):
        part.write_text("half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    refuse_unwritable_file(tmp_path / "r.csv", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.csv.1.part", "r.csv.2.part"]
    sweep([young, tmp_path / "absent.part"], age=0.0)
    assert not young.exists()
