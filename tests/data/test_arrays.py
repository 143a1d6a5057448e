"""What users give as arrays: every plain kind gives the same numbers, the rest has a message."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anipot.aev import AEVComputer, AEVSettings
from anipot.data import arrays
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.errors import AnipotError, DataError, SettingsError
from anipot.potential.hessian import hessian
from anipot.potential.model import ANIModel
from anipot.studies.environments import environments

WATER = [8, 1, 1]
X = np.array([[0.0, 0.0, 0.125], [0.0, 0.75, -0.5], [0.0, -0.75, -0.5]])
CELL = np.array([[6.0, 0, 0], [1, 5, 0], [0, 0, 7]])


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    """A field of records, as files of fixed columns are read."""
    records = np.zeros(len(array), dtype=[("pad", "u1"), ("x", array.dtype, array.shape[1:])])
    records["x"] = array
    return records["x"]


#: Ways of giving the same numbers.
LAYOUTS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else tuple(a.tolist()),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little-endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "columns first": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read-only": read_only,
    "records": unaligned,
    "objects of rows": lambda a: list(a),
    "no mask": np.ma.array,
    "tensor": torch.as_tensor,
    "tensor with a graph": lambda a: torch.as_tensor(a.astype(float)).requires_grad_(),
}
NUMBER_LAYOUTS = {
    **{k: v for k, v in LAYOUTS.items() if k not in ("objects of rows",)},
    "uint8": lambda a: a.astype(np.uint8),
    "floats": lambda a: a.astype(float),
    "float16": lambda a: a.astype(np.float16),
    "symbols": lambda a: ["O", "H", "H"],
    "array of symbols": lambda a: np.array(["O", "H", "H"]),
    "objects": lambda a: np.array(["O", "H", "H"], dtype=object),
    "bytes": lambda a: np.array([b"O", b"H", b"H"]),
    "objects of bytes": lambda a: np.array([b"O", b"H", b"H"], dtype=object),
}


@pytest.fixture(scope="module")
def model():
    return ANIModel.create("HCNO", hidden=[8], seed=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.filterwarnings("error")
def test_coordinates_and_cells_of_any_layout(layout, dtype):
    model = ANIModel.create("HCNO", hidden=[8], seed=1, dtype=dtype)
    change = LAYOUTS[layout]
    numbers, offsets, pbc = np.array(WATER), [0, 3], np.ones((1, 3), dtype=bool)
    want = model.predict(
        Conformers(numbers, X, offsets, cells=CELL[None], pbc=pbc), forces=True, stress=True
    )
    data = Conformers(
        numbers, change(X), offsets, energies=change(np.array([1.0])), forces=change(X),
        cells=change(CELL[None]), pbc=pbc, stress=change(np.zeros((1, 3, 3))),
    )  # fmt: skip
    found = model.predict(data, forces=True, stress=True)
    for name in ("energies", "forces", "stress"):
        assert np.array_equal(getattr(found, name), getattr(want, name))
    batch = next(iter(BatchLoader(data, 1, "HCNO").epoch()))
    assert batch.forces.isfinite().all()
    assert np.array_equal(hessian(model, data), hessian(model, data))
    for engine in ("native", "reference"):
        step = ANIModel.create("HCNO", hidden=[8], seed=1, dtype=dtype, engine=engine)
        step = step.stepper(WATER, True)
        a, b = step(X, CELL, stress=True), step(change(X), change(CELL), stress=True)
        assert a.energy == b.energy
        assert np.array_equal(a.stress, b.stress)


@pytest.mark.parametrize("kind", [np.float16, np.int8, np.uint64, np.longdouble, ">i2", ">f4"])
def test_numbers_of_any_width(model, kind):
    x = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 2]])
    cell = np.array([[6, 0, 0], [1, 5, 0], [0, 0, 7]])
    step = model.stepper(WATER, True)
    want = step(x, cell).energy
    assert step(x.astype(kind), cell.astype(kind)).energy == want
    data = [
        Conformers(WATER, c, [0, 3], cells=h[None])
        for c, h in ((x, cell), (x.astype(kind), cell.astype(kind)))
    ]
    assert data[1].coordinates.dtype in (np.float32, np.float64)
    a, b = (model.predict(d).energies[0] for d in data)
    assert a == b


@pytest.mark.parametrize("layout", NUMBER_LAYOUTS)
def test_atomic_numbers_of_any_layout(model, layout):
    numbers = NUMBER_LAYOUTS[layout](np.array(WATER))
    assert Conformers(numbers, X, [0, 3]).atomic_numbers.tolist() == WATER
    assert model.stepper(numbers)(X).energy == model.stepper(WATER)(X).energy


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([6.5, 1.0, 1.0], "whole numbers, but one is 6.5"),
        ([np.nan, 1, 1], "whole numbers, but one is nan"),
        ([True, True, False], "whole numbers, not truth values"),
        ([1 + 0j, 1, 1], "complex"),
        (np.ma.array(WATER, mask=[0, 1, 0]), "masked"),
        ("OHH", "a list as"),
        (["O", "H", "Xx"], "'Xx' is not the symbol"),
        (["8", "1", "1"], "'1' is not the symbol"),
        ([["O", "H", "H"]], "shape"),
        ([[8], [1, 1]], "not an array"),
        ([8, 1, None], "whole numbers"),
        ([8, 1, 300], "300 among atomic_numbers"),
        ([8, 1, -1], "-1 among atomic_numbers"),
        (8, "a list as"),
    ],
)
def test_what_is_no_atomic_number_is_refused(model, numbers, message):
    for make in (model.stepper, lambda z: Conformers(z, X, [0, 3])):
        with pytest.raises(DataError, match=message):
            make(numbers)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X > 0, "real numbers, not truth values"),
        (X + 1j, "real numbers, not complex"),
        (X.astype(str), "real numbers, not text"),
        (X.astype(bytes), "real numbers, not text"),
        (np.ma.masked_less(X, 0), "masked"),
        ([[0, 0, 0], [0, 1], [0, 0, 1]], "not an array"),
        (np.array([[Fraction(1, 2)] * 3] * 3), "real numbers"),
        ([[None] * 3] * 3, "real numbers"),
        (None, "real numbers|missing"),
        (X.astype("datetime64[s]"), "real numbers"),
    ],
)
def test_what_is_no_coordinate_or_cell_is_refused(model, x, message):
    step, periodic = model.stepper(WATER), model.stepper(WATER, True)
    with pytest.raises(DataError, match=f"coordinates.* {message}"):
        step(x)
    with pytest.raises(DataError, match=f"coordinates.* {message}"):
        Conformers(WATER, x, [0, 3])
    if x is not None:
        with pytest.raises(DataError, match=f"the cell.* {message}"):
            periodic(X, x)
        with pytest.raises(DataError, match=f"^cells.* {message}"):
            Conformers(WATER, X, [0, 3], cells=[x])
        with pytest.raises(DataError, match=f"^forces.* {message}"):
            Conformers(WATER, X, [0, 3], forces=x)


@pytest.mark.parametrize(
    ("pbc", "periodic"),
    [
        (False, [0, 0, 0]),
        (np.True_, [1, 1, 1]),
        ([True, False, True], [1, 0, 1]),
        ((1, 0, 0), [1, 0, 0]),
        (torch.tensor([True, False, False]), [1, 0, 0]),
        (np.array([1, 1, 0], dtype=">i4"), [1, 1, 0]),
    ],
)
def test_periodic_directions(model, pbc, periodic):
    assert model.stepper(WATER, pbc).pbc.tolist() == [bool(p) for p in periodic]


@pytest.mark.parametrize(
    "pbc", ["xyz", "T", "", [1, 2, 0], 0.5, [True, False], None, [[1, 1, 1]] * 2]
)
def test_what_is_no_periodic_direction_is_refused(model, pbc):
    with pytest.raises(DataError, match=r"^pbc "):
        model.stepper(WATER, pbc)
    if pbc is not None:
        with pytest.raises(DataError, match=r"^pbc "):
            Conformers(WATER, X, [0, 3], cells=CELL[None], pbc=[pbc])


def test_offsets_groups_and_masks(model):
    for offsets in ([0, 2.5, 3], ["0", "3"], [[0, 3]], 3, [True, True]):
        with pytest.raises(DataError, match="offsets"):
            Conformers(WATER, X, offsets)
    assert len(Conformers(WATER, X, [0.0, 3.0])) == 1
    with pytest.raises(DataError, match="molecule must be whole numbers"):
        Conformers(WATER, X, [0, 3], molecule=[0.5])
    with pytest.raises(DataError, match="masks"):
        Conformers(WATER, X, [0, 3], energies=[1.0], masks={"energies": [1.0]})


def test_plain_arrays_where_conformers_are_meant(model):
    for call in (
        model.predict,
        lambda x: hessian(model, x),
        environments,
        model.batch,
        lambda x: Batch.of(x, "HO"),
        lambda x: BatchLoader(x, 1, "HO"),
    ):
        for other in (X, X.tolist(), None, "water.xyz"):
            with pytest.raises(DataError, match=r"Conformers, not .*load_dataset"):
                call(other)


def test_aevs_are_of_batches_and_tensors():
    settings = AEVSettings.ani1x()
    batch = Batch.of(Conformers(WATER, X, [0, 3]), settings.elements)
    computer = AEVComputer(settings)
    with pytest.raises(SettingsError, match="a Batch is expected, not ndarray"):
        computer(X)
    for x in (
        X,
        torch.ones(3, 3, dtype=torch.int64),
        torch.ones(3, 3, dtype=torch.complex64),
        X > 0,
    ):
        with pytest.raises(
            SettingsError, match="coordinates must be a tensor of float32 or float64"
        ):
            computer(batch, x)
        with pytest.raises(SettingsError, match="cells must be a tensor of float32 or float64"):
            computer(batch, None, x[None])


ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([np.ma.masked, np.datetime64("2000"), object(), {}, {1}, Ellipsis, np.int8(1)]),
)


@given(st.recursive(ANY, lambda inner: st.lists(inner, max_size=3), max_leaves=9))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_is_given_is_converted_or_refused(values):
    for convert in (
        arrays.reals,
        arrays.integers,
        arrays.atomic_numbers,
        arrays.truths,
        arrays.directions,
    ):
        try:
            found = convert(values, "it")
        except AnipotError as e:
            assert str(e).startswith("it")  # noqa: PT017
        else:
            assert found.dtype.kind in "fiub"
            assert found.dtype.isnative
