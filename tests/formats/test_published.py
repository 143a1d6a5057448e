"""Published potentials by name: caches, downloads, and everything that goes wrong with them."""

import hashlib
import io
import logging
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import random_conformers
from neurochem_files import write_ensemble

import anipot
from anipot.errors import PotentialError
from anipot.formats import published
from anipot.formats.neurochem import read_neurochem
from anipot.system import downloading

ROOT = "ani-model-zoo-ani-2x/resources/"


@pytest.fixture
def original(tmp_path, monkeypatch) -> Path:
    """A folder with a small potential that stands in for ANI-1x: its sums are the pinned ones."""
    folder = tmp_path / "original"
    folder.mkdir()
    write_ensemble(folder, name="ani-1x_8x")
    sums = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }
    monkeypatch.setattr(published, "_sums", lambda potential: sums)
    return folder


@pytest.fixture(autouse=True)
def no_caches(tmp_path, monkeypatch) -> Path:
    """Nothing of the machine's own is looked at, and nothing asked of a network; the home."""
    for variable in ("ANIPOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setenv("ANIPOT_ZOO_URL", "http://127.0.0.1:9/nobody-listens.zip")
    return home


def archive_of(folder: Path, **changed: bytes | None) -> bytes:
    """The zip archive as published, with files that are not wanted, and with changed ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ani-model-zoo-ani-2x/README.md", "not wanted")
        archive.writestr("../outside.txt", "hostile")
        archive.writestr(ROOT + "ani-1x_8x/../../../outside.txt", "hostile")
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            content = changed.get(path.name.replace(".", "_"), path.read_bytes() if path.is_file()
                                  else None)  # fmt: skip
            if content is not None:
                archive.writestr(ROOT + name, content)
    return buffer.getvalue()


@pytest.fixture
def server(original):
    """``server(content, length=..., status=...)``: the address that gives it; ``server.asked``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, length, status, delay = answers[self.path]
            asked.append(self.path)
            time.sleep(delay)
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    class Server:
        def __init__(self) -> None:
            self.asked = asked

        def __call__(self, content, length=-1, status=200, delay=0.0) -> str:
            path = f"/{len(answers)}.zip"
            answers[path] = (content, len(content) if length == -1 else length, status, delay)
            return f"http://127.0.0.1:{http.server_port}{path}"

    answers: dict = {}
    asked: list = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server()
    http.shutdown()
    http.server_close()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_pinned_sums_are_those_of_the_published_files(shared_potentials, monkeypatch):
    """Those files are a cache as they are; what others lack in it is an error that names it."""
    monkeypatch.setenv("ANIPOT_CACHE", str(shared_potentials))
    for name, members in (("ani1x", 307), ("ani1ccx", 307), ("ani2x", 523)):
        found = published.find(name)
        assert found.parent == shared_potentials
        assert len(published._sums(published.named(name))) == members
    for potential in published.PUBLISHED:
        assert "".join(anipot.load(potential.title).elements) == potential.elements


@pytest.mark.parametrize("name", ["ani1x", "ANI-1x", "ani-1x", "ANI1x", "ani_1X"])
def test_spellings(name):
    assert published.is_name(name)
    assert published.named(name).title == "ANI-1x"


def test_other_names():
    assert not any(map(published.is_name, ("ani3x", "", "ani1x.info", "1x", "anipot-hcno")))
    with pytest.raises(PotentialError, match=r"'ani3x'; there are ani1x, ani1ccx, ani2x"):
        published.fetch(["ani3x"])


def test_fetched_once_and_the_same_bits(original, server, no_caches):
    address = server(archive_of(original))
    info = published.find("ANI-1x", address=address)
    cache = no_caches / ".cache" / "anipot"
    assert info == cache / "ani-1x_8x.info"
    assert contents(cache) == contents(original)  # nothing else, nothing left over, not outside
    assert not list(no_caches.rglob("outside.txt"))
    assert not (original.parent / "outside.txt").exists()
    assert (cache / "ani-1x_8x").stat().st_mode & 0o777 == 0o755
    assert published.find("ani1x", address=address) == info
    assert len(server.asked) == 1
    molecules = random_conformers(np.random.default_rng(0), [4], "HO")
    there, here = (p.predict(molecules).energies for p in (
        read_neurochem(original / "ani-1x_8x.info"), anipot.load("ani1x")))  # fmt: skip
    assert there == here
    assert anipot.load("ani1x").about["name"] == "ANI-1x"


def test_address_of_the_environment(original, server, monkeypatch, tmp_path):
    monkeypatch.setenv("ANIPOT_ZOO_URL", server(archive_of(original)))
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "own"))
    assert published.fetch(["ani1x"]) == [tmp_path / "own" / "ani-1x_8x.info"]
    (tmp_path / "copy.zip").write_bytes(archive_of(original))
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("ANIPOT_ZOO_URL", (tmp_path / "copy.zip").as_uri())
    assert published.fetch(["ani1x"]) == [tmp_path / "other" / "ani-1x_8x.info"]


def test_order_of_caches(original, monkeypatch, tmp_path, no_caches):
    own, xdg, home = tmp_path / "own", tmp_path / "xdg" / "anipot", no_caches / ".cache" / "anipot"
    monkeypatch.setenv("ANIPOT_CACHE", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert published.cache_folders() == [own, xdg, home]
    for folder in (home, xdg, own):
        shutil.copytree(original, folder)
        assert published.find("ani1x") == folder / "ani-1x_8x.info"
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_caches / ".cache"))
    assert published.cache_folders() == [own, home]


def test_a_cache_that_cannot_be_written(original, server, monkeypatch, tmp_path, no_caches):
    """Complete files in it are used; else the next folder is; else it says what to set."""
    address = server(archive_of(original))
    blocked = tmp_path / "file" / "cache"
    (tmp_path / "file").write_text("no folder can be made below this")
    monkeypatch.setenv("ANIPOT_CACHE", str(blocked))
    (no_caches.parent / "home").write_text("nor here")
    with pytest.raises(PotentialError) as e:
        published.find("ani1x", address=address)
    assert str(e.value).startswith("ani1x: not in a cache, and no folder to keep it in")
    assert f"{blocked}: Not a directory" in str(e.value)
    assert str(e.value).endswith("name one in ANIPOT_CACHE")
    assert not server.asked  # before the download, not after it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert published.find("ani1x", address=address).parent == tmp_path / "xdg" / "anipot"
    for folder in (original, *original.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o555)
    monkeypatch.setenv("ANIPOT_CACHE", str(original))
    before = contents(original)
    assert anipot.load("ani1x").about["name"] == "ANI-1x"
    assert contents(original) == before
    for folder in (original, *original.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)


def test_a_damaged_cache_names_the_file_and_the_way_out(original, monkeypatch):
    monkeypatch.setenv("ANIPOT_CACHE", str(original))
    file = original / "ani-1x_8x/train1/networks/ANN-H.nnf-l1.wparam"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert read_neurochem(original / "ani-1x_8x.info").about == {"format": "NeuroChem"}
    for reason in ("not the published file (its sha256 is ", "cannot be read (No such file"):
        with pytest.raises(PotentialError) as e:
            published.find("ani1x")
        assert str(e.value).startswith(f"{file}: {reason}")
        assert f"remove {original / 'ani-1x_8x'} and ani-1x_8x.info beside it" in str(e.value)
        assert "anipot potentials fetch ani1x" in str(e.value)
        file.unlink(missing_ok=True)


def test_offline_says_all_in_one_message(original, monkeypatch, tmp_path, no_caches):
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "own"))
    with pytest.raises(PotentialError) as e:
        anipot.load("ANI-1x")
    message = str(e.value)
    for part in (
        "ani1x: not on this machine",
        "http://127.0.0.1:9/nobody-listens.zip",
        "refused",
        "Looked for ani-1x_8x.info and ani-1x_8x in",
        f"{tmp_path / 'own'}, {no_caches / '.cache' / 'anipot'}",
        "\n    anipot potentials fetch ani1x\n",
        "ANIPOT_CACHE",
    ):
        assert part in message
    assert "urlopen" not in message
    assert not list((tmp_path / "own").iterdir())


def test_what_comes_is_not_what_was_published(original, server, no_caches):
    whole = archive_of(original)
    cases = [
        (server(b"", status=404), "HTTP Error 404: Not Found"),
        (server(whole[: len(whole) // 2], length=len(whole)), "bytes"),
        (server(whole[: len(whole) // 2], length=None), "not a whole zip archive"),
        (server(b"<html>Sign in to the wireless network</html>"), "not a whole zip archive"),
        (server(b""), "not a whole zip archive"),
        (server(archive_of(original, tiny_params=b"TM = 1\n")), "ani-1x_8x/tiny.params in this"),
        (server(archive_of(original, tiny_params=bytes(1 << 26))), "is not the published file"),
        (server(archive_of(original, tiny_params=None)), "tiny.params is not in this archive"),
        (server(archive_of(original / "ani-1x_8x")), "ani-1x_8x.info is not in this archive"),
        ("no address", "unknown url type"),
    ]
    broken = bytearray(whole)
    at = whole.index(b"ANN-O.nnf-l1.wparam") + 60
    broken[at : at + 40] = bytes(40)
    cases.append((server(bytes(broken)), ""))
    for address, reason in cases:
        with pytest.raises(PotentialError) as e:
            published.find("ani1x", address=address)
        assert reason in str(e.value), (address, str(e.value))
        assert address in str(e.value)
        assert not contents(no_caches)  # nothing is kept
        assert not [p for p in no_caches.rglob("*") if p.name.startswith(".ani")]
    assert published.find("ani1x", address=server(whole)).is_file()


def test_a_server_that_says_nothing(original, server, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.05)
    with pytest.raises(PotentialError, match="timed out"):
        published.find("ani1x", address=server(archive_of(original), delay=0.5))


def test_an_archive_without_end(original, server, monkeypatch):
    monkeypatch.setattr(published, "_MOST_ARCHIVE", 1000)
    with pytest.raises(PotentialError, match="more than 1,000 bytes came"):
        published.find("ani1x", address=server(archive_of(original)))


def test_interrupted_and_run_again(original, server, monkeypatch, no_caches):
    address = server(archive_of(original))
    cache = no_caches / ".cache" / "anipot"

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    for place in ("_download", "_published_files", "atomic_write"):
        with monkeypatch.context() as m:
            m.setattr(published, place, interrupted)
            with pytest.raises(KeyboardInterrupt):
                published.find("ani1x", address=address)
        assert not [p for p in cache.iterdir() if p.name != "ani-1x_8x"], place
        assert published.cached("ani1x") is None
    assert (cache / "ani-1x_8x").is_dir()  # stopped between the folder and its .info
    file = cache / "ani-1x_8x" / "tiny.params"
    whole = file.read_bytes()
    file.write_bytes(b"changed")
    with pytest.raises(PotentialError, match="not the published file"):
        published.find("ani1x", address=address)
    file.write_bytes(whole)
    published.find("ani1x", address=address)
    assert contents(cache) == contents(original)


def test_several_at_once(original, server, no_caches):
    address = server(archive_of(original), delay=0.1)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: published.find("ani1x", address=address), range(6)))
    cache = no_caches / ".cache" / "anipot"
    assert set(found) == {cache / "ani-1x_8x.info"}
    assert contents(cache) == contents(original)
    assert len(server.asked) > 1  # they did run at once


def test_the_archive_as_published(shared_potentials, no_caches, tmp_path):
    """The real ANI-1ccx through the whole way: sums, files, energies."""
    archive = tmp_path / "ani-2x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in shared_potentials.rglob("ani-1ccx*/**/*"):
            if path.is_file():
                file.write(path, ROOT + path.relative_to(shared_potentials).as_posix())
        file.write(shared_potentials / "ani-1ccx_8x.info", ROOT + "ani-1ccx_8x.info")
    info = published.find("ani1ccx", address=archive.as_uri())
    here, there = anipot.load("ani1ccx"), anipot.load(shared_potentials / info.name)
    molecules = random_conformers(np.random.default_rng(0), [9], "HCNO")
    assert here.predict(molecules).energies == there.predict(molecules).energies
    assert here.about == there.about
    assert here.about["level_of_theory"] == "CCSD(T)*/CBS"


def test_a_changed_file_among_published_ones_is_told(original, caplog):
    """Of a folder that has the name of a published potential, and most of its files."""
    info, folder = original / "ani-1x_8x.info", original / "ani-1x_8x"
    with caplog.at_level(logging.WARNING, "anipot"):
        assert read_neurochem(info).about["name"] == "ANI-1x"
        assert not caplog.records
        weights = folder / "train1" / "networks" / "ANN-O.nnf-l2.wparam"
        raw = bytearray(weights.read_bytes())
        raw[5] ^= 4
        weights.write_bytes(raw)
        for path in (info, folder, folder / "train0"):
            caplog.clear()
            assert "name" not in read_neurochem(path).about
            assert f"{weights}: not the file published with ANI-1x" in caplog.text
        caplog.clear()
        read_neurochem(folder.rename(original / "mine"))
        assert not caplog.records


def test_a_part_of_a_published_potential_is_read(original):
    folder = original / "ani-1x_8x"
    for file in (folder / "train1").rglob("*.*"):
        file.unlink()
    member = read_neurochem(folder / "train0")
    assert "name" not in member.about
