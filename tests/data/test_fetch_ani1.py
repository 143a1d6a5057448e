"""anipot data fetch ani1: against a server on this machine, with and without mishaps."""

import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from anipot.data.load import load_dataset
from anipot.data.published import fetch_ani1 as module
from anipot.data.published.fetch_ani1 import fetch_ani1, file_name, heavy_atoms_of
from anipot.errors import DataError, SettingsError


def data_file(path: Path, heavy: int, conformers: int = 3) -> Path:
    """A file laid out as ANI-1's, with one chain of carbon atoms."""
    rng = np.random.default_rng(heavy)
    with h5py.File(path, "w") as file:
        group = file.create_group(f"gdb11_s{heavy:02d}/gdb11_s{heavy:02d}-0")
        group["species"] = np.array([b"C"] * heavy + [b"H"] * 4)
        group["coordinates"] = rng.normal(size=(conformers, heavy + 4, 3)).astype(np.float32)
        group["energies"] = -40.0 * heavy + rng.normal(size=conformers)
        group["smiles"] = np.array([b"C"] * heavy)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """s01 to s04 in a folder, with a file that nobody asked for, and noise so that it is long."""
    folder = tmp_path_factory.mktemp("ani1")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        noise = np.random.default_rng(0).bytes(300_000)
        info = tarfile.TarInfo("ANI-1_release/readme.pdf")
        info.size = len(noise)
        tar.addfile(info, io.BytesIO(noise))
        for heavy in (3, 1, 2, 4):
            path = data_file(folder / file_name(heavy, heavy), heavy)
            tar.add(path, f"ANI-1_release/{path.name}")
    return buffer.getvalue()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(module, "CONFORMERS", {(1, 4): 12})


class Server:
    """What is served, how often, and what was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content, self.etag = content, '"one"'
        self.breaks: list[int] = []  # bytes after which a connection ends, one a request
        self.asked: list[str | None] = []
        self.ranges = True
        self.address = ""


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Server]]:
    running = []

    def start(content: bytes) -> Server:
        state = Server(content)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                state.asked.append(asked)
                first = 0
                if asked and state.ranges and self.headers.get("If-Range") == state.etag:
                    first = int(asked.removeprefix("bytes=").removesuffix("-"))
                body = state.content[first:]
                self.send_response(206 if first else 200)
                if first:
                    total = len(state.content)
                    self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", state.etag)
                self.end_headers()
                self.wfile.write(body[: state.breaks.pop(0)] if state.breaks else body)

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        state.address = f"http://127.0.0.1:{server.server_port}/files/9057631"
        return state

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_the_files_become_one_with_their_groups(archive, serve, tmp_path, known):
    server = serve(archive)
    out, molecules, conformers = fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert (out, molecules, conformers) == (tmp_path / "x.h5", 4, 12)
    with h5py.File(out) as file:
        assert list(file) == [f"gdb11_s{k:02d}" for k in range(1, 5)]
    data = load_dataset(out)
    parts = [load_dataset(data_file(tmp_path / f"{k}.h5", k)) for k in range(1, 5)]
    np.testing.assert_array_equal(data.energies, np.concatenate([p.energies for p in parts]))
    files = {"1.h5", "2.h5", "3.h5", "4.h5", "x.h5", "ANI-1_release.tar.gz.sha256"}
    assert {p.name for p in tmp_path.iterdir()} == files


def test_a_broken_connection_goes_on_where_it_was(archive, serve, tmp_path, known):
    server = serve(archive)
    server.breaks = [100_000, 50_000]
    out, *_ = fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert len(load_dataset(out)) == 12


def test_another_command_goes_on_with_what_is_there(archive, serve, tmp_path, known):
    server = serve(archive)
    server.breaks = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match=r"100,000 bytes.*goes on") as e:
        fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert "--archive FILE" in str(e.value)
    assert not (tmp_path / "x.h5").exists()
    server.breaks.clear()
    server.asked.clear()
    fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert server.asked == ["bytes=100000-"]
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "ANI-1_release.tar.gz.sha256"}


def test_what_has_changed_meanwhile_is_fetched_anew(archive, serve, tmp_path, known):
    server = serve(np.random.default_rng(1).bytes(200_000))
    server.breaks = [100_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    server.content, server.etag = archive, '"two"'
    server.breaks.clear()
    assert fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)[2] == 12


def test_a_server_without_ranges(archive, serve, tmp_path, known):
    server = serve(archive)
    server.ranges, server.breaks = False, [100_000]
    assert fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)[2] == 12


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"<html>not found</html>", "not a whole tar archive"), (None, "not a whole tar archive")],
)
def test_wrong_content_is_refused_and_not_kept(archive, serve, tmp_path, content, reason):
    server = serve(content or archive[:-2000])
    with pytest.raises(DataError, match=reason):
        fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert not list(tmp_path.iterdir())


def test_the_sum_of_the_first_archive_is_kept_and_checked(archive, serve, tmp_path, known):
    server = serve(archive)
    fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    file = tmp_path / "ANI-1_release.tar.gz.sha256"
    digest = hashlib.sha256(archive).hexdigest()
    assert file.read_text() == f"{digest}  ANI-1_release.tar.gz\n"
    fetch_ani1((2, 2), tmp_path / "y.h5", address=server.address)  # the same archive again
    changed = bytearray(archive)
    changed[4] ^= 1  # the time in gzip's header, which no checksum covers
    server.content = bytes(changed)
    with pytest.raises(DataError, match=f"sha256 is [0-9a-f]{{64}}, but .*{digest}"):
        fetch_ani1((3, 3), tmp_path / "z.h5", address=server.address)
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "y.h5", file.name}
    file.write_text("no sum")
    with pytest.raises(DataError, match="does not begin with a sha256 sum"):
        fetch_ani1((3, 3), tmp_path / "z.h5", address=server.address)
    file.unlink()
    assert fetch_ani1((3, 3), tmp_path / "z.h5", address=server.address)[1] == 1


def test_an_archive_of_ones_own_has_its_sum_beside(archive, tmp_path):
    own = tmp_path / "a.tar.gz"
    own.write_bytes(archive)
    fetch_ani1((3, 3), tmp_path / "x.h5", archive=own)
    assert (tmp_path / "a.tar.gz.sha256").exists()
    own.write_bytes(archive + b"\0")
    with pytest.raises(DataError, match=r"a\.tar\.gz: its sha256 is"):
        fetch_ani1((2, 2), tmp_path / "y.h5", archive=own)
    assert own.exists()


def test_the_sum_of_a_wrong_archive_is_not_kept(archive, serve, tmp_path):
    """Of one that holds another number of conformers, or that is cut short."""
    server = serve(archive)
    with pytest.raises(DataError, match="864,898 were published"):
        fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert not list(tmp_path.glob("*.sha256"))


def test_another_number_of_conformers_is_refused(archive, serve, tmp_path):
    server = serve(archive)
    with pytest.raises(DataError, match=r"12 conformers in all, and 864,898 were published"):
        fetch_ani1((1, 4), tmp_path / "x.h5", address=server.address)
    assert not (tmp_path / "x.h5").exists()


def test_damage_anywhere_in_the_archive_is_told(archive, tmp_path):
    """As a DataError, whatever gzip, tar or HDF5 make of it."""
    rng = random.Random(0)
    path = tmp_path / "a.tar.gz"
    for k in range(12):
        if k % 3:
            changed = bytearray(archive)
            for _ in range(4):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        else:
            changed = bytearray([b"\xfd7zXZ\0", b"BZh9", b"\x1f\x8b\x08", b"PK"][k // 3] + archive)
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"archive|ani_gdb"):
            fetch_ani1((1, 4), tmp_path / "x.h5", archive=path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name}


def test_a_link_in_place_of_data_is_refused(archive, tmp_path):
    """An HDF5 file can point to any other file of the machine."""
    secret = data_file(tmp_path / "secret.h5", 2)
    file = tmp_path / file_name(2, 2)
    with h5py.File(file, "w") as target:
        target["gdb11_s02"] = h5py.ExternalLink(str(secret), "gdb11_s02")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(file, file.name)
    with pytest.raises(DataError, match="'gdb11_s02' is a link, not data"):
        fetch_ani1((2, 2), tmp_path / "x.h5", archive=tmp_path / "a.tar.gz")


def test_a_file_that_hdf5_cannot_read_names_the_archive(tmp_path):
    file = tmp_path / file_name(2, 2)
    file.write_bytes(b"no HDF5")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(file, file.name)
    with pytest.raises(DataError, match=r"a\.tar\.gz: ani_gdb_s02\.h5 in it cannot be merged"):
        fetch_ani1((2, 2), tmp_path / "x.h5", archive=tmp_path / "a.tar.gz")
    assert not (tmp_path / "x.h5").exists()


def test_a_missing_file_is_named(archive, serve, tmp_path):
    server = serve(archive)
    with pytest.raises(DataError, match=r"ani_gdb_s05\.h5 is not in this archive"):
        fetch_ani1((4, 5), tmp_path / "x.h5", address=server.address)


def test_without_a_network_the_way_out_is_told(tmp_path, archive, known):
    with pytest.raises(DataError, match="On a machine with a network") as e:
        fetch_ani1((1, 4), tmp_path / "x.h5", address="http://127.0.0.1:9/nothing")
    assert "ndownloader.figshare.com/files/9057631" in str(e.value)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.tar.gz").write_bytes(archive)
    assert fetch_ani1((1, 4), tmp_path / "x.h5", archive=tmp_path / "a.tar.gz")[2] == 12
    assert (tmp_path / "a.tar.gz").exists()
    with pytest.raises(SettingsError, match="never overwritten"):
        fetch_ani1((1, 4), tmp_path / "x.h5", archive=tmp_path / "a.tar.gz")


def test_one_number_of_heavy_atoms(tmp_path, archive):
    (tmp_path / "a.tar.gz").write_bytes(archive)
    out, molecules, _ = fetch_ani1((3, 3), tmp_path / "x.h5", archive=tmp_path / "a.tar.gz")
    assert molecules == 1
    assert load_dataset(out).heavy_atoms.tolist() == [3, 3, 3]


def test_heavy_atoms_as_people_write_them():
    assert heavy_atoms_of("4") == (4, 4)
    assert heavy_atoms_of("1-4") == (1, 4)
    assert file_name(1, 4) == "ani_gdb_s01_to_s04.h5"
    assert file_name(2, 2) == "ani_gdb_s02.h5"
    for wrong in ("0-4", "4-1", "9", "a", "1-"):
        with pytest.raises(SettingsError, match="1 to 8"):
            heavy_atoms_of(wrong)
