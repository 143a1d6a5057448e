import errno
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from anipot.data.conformers import Conformers
from anipot.errors import DataError, InUseError, SettingsError
from anipot.system import files
from anipot.system.files import (
    atomic_write,
    kept,
    only_process,
    read_json,
    read_table,
    write_first,
    write_text,
)


def disk_full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            disk_full()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_disk_that_fills_at_the_last_moment(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_saving_a_data_set_on_a_full_disk_keeps_the_old_one(tmp_path, monkeypatch):
    def data(energy):
        return Conformers([1], np.zeros((1, 3)), [0, 1], energies=[energy])

    path = tmp_path / "data.npz"
    data(-0.5).save(path)
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(before[:50])
        disk_full()

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="No space left"):
        data(-0.6).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["data.npz"]


def test_folders_are_made_and_others_may_read(tmp_path):
    path = tmp_path / "a" / "b" / "result.txt"
    write_text(path, "å")
    assert path.read_text(encoding="utf-8") == "å"
    umask = os.umask(0)
    os.umask(umask)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_errors_name_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "folder.txt").mkdir()
    for path, said in (
        (tmp_path / "file" / "result.txt", "is a file"),
        (tmp_path / "file" / "deeper" / "result.txt", "is a file"),
        (tmp_path / "folder.txt", "there is a folder of that name"),
    ):
        with pytest.raises(OSError, match=said) as error:
            write_text(path, "x")
        assert error.value.filename == str(path)
    path = tmp_path / "result.txt"

    def denied(source, _target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source)

    # The name of the temporary file (mkstemp, open, replace) and no name at all (write, fsync).
    for name, raises in (("replace", denied), ("fsync", disk_full)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, raises)
            with pytest.raises(OSError, match=r"result\.txt'$") as error:
                write_text(path, "x")
        assert error.value.filename == str(path)
    assert isinstance(error.value, OSError)
    assert error.value.errno == errno.ENOSPC
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.txt"]


def test_errors_about_other_files_keep_their_name(tmp_path):
    def write():
        with atomic_write(tmp_path / "result.txt"):
            (tmp_path / "input.txt").read_text()

    with pytest.raises(FileNotFoundError, match=r"input\.txt"):
        write()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    path = tmp_path / "locked" / "result.txt"
    with pytest.raises(PermissionError, match=r"locked/result\.txt'$"):
        write_text(path, "x")


@pytest.mark.skipif(os.name == "nt", reason="locks files as POSIX does")
def test_the_next_write_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    path = tmp_path / "run.csv"
    write_text(tmp_path / ".run.csv.backup_of_mine.csv", "")
    write_text(tmp_path / ".run.csv.12345678.txt", "")
    kept = set(os.listdir(tmp_path))
    script = (
        "import os, signal, sys\n"
        "from anipot.system.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = set(os.listdir(tmp_path)) - kept
    with atomic_write(path) as slow:  # one that is being written is no remainder
        assert left not in os.listdir(tmp_path)
        write_text(path, "first")
        assert slow.exists()
        slow.write_text("second")
    assert path.read_text() == "second"
    assert set(os.listdir(tmp_path)) == kept | {"run.csv"}


def test_of_two_who_write_a_file_first_one_does(tmp_path, monkeypatch):
    path = tmp_path / "a" / "first.txt"
    assert write_first(path, "one")
    assert not write_first(path, "two")
    assert path.read_text() == "one"

    def unknown(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unknown)  # a file system without links
    assert not write_first(path, "two")
    assert write_first(tmp_path / "other.txt", "three")
    assert (tmp_path / "other.txt").read_text() == "three"
    assert sorted(os.listdir(tmp_path)) == ["a", "other.txt"]


def test_a_folder_is_let_go_of(tmp_path):
    with only_process(tmp_path):
        with (
            pytest.raises(InUseError, match="another process works in"),
            only_process(tmp_path),
        ):
            pass
        with only_process(tmp_path / "none"):
            pass
    with only_process(tmp_path):
        pass


def test_the_way_to_go_on_is_told_once():
    error = OSError(errno.ENOSPC, "No space left on device", "a/b")
    for told in (kept(error, "B"), kept(kept(error, "A"), "B")):
        assert str(told).endswith(
            "No space left on device; what is done is kept; to go on: B: 'a/b'"
        )
    assert str(kept(kept(OSError("full"), "A"), "B")).endswith(
        "full; what is done is kept; to go on: B"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "line 1: the byte 0xff is not UTF-8"),
        (b"{\n\n\xe9}", "line 3: the byte 0xe9 is not UTF-8"),
        (b"", "damaged"),
        (b"{", "line 1 column 2"),
        (b"[1]", "a list where an object is expected"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\\ud800"}', "surrogates"),
    ],
)
def test_json_that_is_none_is_named_with_the_way_out(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"x.json: .*{said}.*; mend it"):
        read_json(path, DataError, "mend it")
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(path) == {"a": "é"}
    with pytest.raises(SettingsError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")


def test_a_table_whose_line_is_damaged(tmp_path):
    path = tmp_path / "x.csv"
    for text, said in (
        ("a,b\n1,2\n3\n", "line 3 is damaged .*not the 2 cells"),
        ("a,b\n1,2,3\n", "line 2 is damaged"),
        ("a,b\n1,2\nx,2\n", "line 3 is damaged"),
        ("b\n2\n", "no column 'a'"),
        ('a,b\n"1,2\n', "line 2 is damaged"),
        (f"a,b\n{'x' * 5000},2\n", "line 2 is damaged .{,250}"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=rf"x\.csv: .*{said}.*mend it"):
            read_table(path, lambda line: int(line["a"]), way_out="mend it")
    path.write_text("a,b\r\n1,2\r\n")
    assert read_table(path, lambda line: int(line["a"])) == [1]


@pytest.mark.skipif(files.fcntl is None, reason="this system has no locks")
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    files._warn_of_no_locks.cache_clear()
    (tmp_path / "a").touch()
    for place in (tmp_path, tmp_path / "a"):
        with only_process(place):
            pass
    assert caplog.text.count("has no locks ([Errno") == 1
