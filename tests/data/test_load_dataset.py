import numpy as np
import pytest

from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset, readers
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError


def save(path, energy, name="a"):
    Conformers([1], np.zeros((1, 3)), [0, 1], energies=[energy], molecule=[0],
               molecule_names=(name,), sources=(path.name,)).save(path)  # fmt: skip
    return path


def test_several_files_in_order(tmp_path):
    paths = [save(tmp_path / f"{i}.npz", -0.1 * i, name="ab"[i % 2]) for i in range(4)]
    data = load_dataset(paths)
    np.testing.assert_allclose(data.energies, [0, -0.1, -0.2, -0.3])
    assert data.molecule_names == ("a", "b")
    assert data.molecule.tolist() == [0, 1, 0, 1]
    assert data.sources == ("0.npz", "1.npz", "2.npz", "3.npz")
    assert len(load_dataset(str(paths[0]))) == 1


def test_what_is_no_file(tmp_path):
    save(tmp_path / "water.npz", 0.0)
    with pytest.raises(DataError, match=r"no file .*watr.npz; did you mean water.npz\?"):
        load_dataset(tmp_path / "watr.npz")
    with pytest.raises(DataError, match="no file"):
        load_dataset(tmp_path / "nowhere" / "x.h5")
    with pytest.raises(DataError, match="is a folder"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="no data file given"):
        load_dataset([])
    for name in ("empty.h5", "empty.xyz", "empty.npz", "empty.dat"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"{name} is empty"):
            load_dataset(tmp_path / name)


def test_an_unknown_type_lists_the_known_ones(tmp_path):
    path = tmp_path / "letter.docx"
    path.write_text("Dear Sir,")
    with pytest.raises(DataError, match=r"letter.docx: cannot be read .*\.npz, \.xyz"):
        load_dataset(path)


def test_hdf5_is_known_by_its_content(tmp_path):
    import shutil

    from anipot.data.published.bundled import bundled_path

    path = tmp_path / "data.without-suffix"
    shutil.copy(bundled_path(), path)
    assert load_dataset(path).content_hash() == load_bundled().content_hash()


def test_a_reader_is_registered_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_known", dict(readers._known))

    @readers.register(".points")
    def read_points(path, options):
        rows = np.loadtxt(path)
        return Conformers(rows[:, 0].astype(int), rows[:, 1:], [0, len(rows)], energies=[-1.0])

    (tmp_path / "a.points").write_text("1 0 0 0\n1 0 0 0.74\n")
    data = load_dataset(tmp_path / "a.points")
    assert data.formulas()[1] == ("H2",)
