"""Figures: what is drawn is what was given, with units, at every size of input."""

import io
import itertools
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError
from anipot.evaluation.error_stats import ErrorStats
from anipot.evaluation.history import EpochRecord, History
from anipot.evaluation.metrics import Evaluation, Row
from anipot.report.figures import plots
from anipot.report.figures import style as plotstyle
from anipot.units import HARTREE_TO_KCALMOL


def history(n: int) -> History:
    """n epochs: validation MAE falls as 8/epoch, so that the last is the best."""
    return History(
        [
            EpochRecord(k, 10 * k, 1e-3 * 0.97**k, 50 / k, 60 / k, 8 / k, 12 / k, 1.0, True)
            for k in range(1, n + 1)
        ]
    )


def evaluation(n: int, spread: float = 1.0) -> Evaluation:
    """n waters; errors are normal with the given standard deviation in kcal/mol."""
    rng = np.random.default_rng(0)
    energies = -76.0 + rng.normal(0, 0.03, n)
    data = Conformers(
        atomic_numbers=np.tile([8, 1, 1], n),
        coordinates=np.zeros((3 * n, 3)),
        offsets=np.arange(n + 1) * 3,
        energies=energies,
        molecule=np.zeros(n),
        molecule_names=("O",),
    )
    errors = rng.normal(0, spread, n) / HARTREE_TO_KCALMOL
    return Evaluation.of(data, energies + errors, np.full(n, -76.0))


def rows(n: int) -> list[Row]:
    """Groups g1..gn; the MAE of group k is k."""
    return [(f"g{k}", ErrorStats(10 * k, float(k), 1.5 * k, 4.0 * k, 0.5)) for k in range(1, n + 1)]


def texts(figure: Figure) -> str:
    """Everything that is written on a figure and seen."""
    found = figure.findobj(lambda a: isinstance(a, Text) and a.get_visible())
    return "\n".join(text.get_text() for text in found)  # type: ignore[attr-defined]


def labels_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """All that is drawn lies on the page."""
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= page[0] + 0.01
    assert box.y1 <= page[1] + 0.01


ALL = {
    "loss of 150 epochs": lambda: plots.loss_curve(history(150)),
    "loss of 8 epochs": lambda: plots.loss_curve(history(8)),
    "loss of 1 epoch": lambda: plots.loss_curve(history(1)),
    "parity of 300": lambda: plots.parity(evaluation(300), "Test set"),
    "parity of 4000": lambda: plots.parity(evaluation(4000)),
    "parity of 1": lambda: plots.parity(evaluation(1)),
    "parity without errors": lambda: plots.parity(evaluation(5, 0.0)),
    "parity of a bad model": lambda: plots.parity(evaluation(50, 1e5)),
    "1 group": lambda: plots.error_by_group(rows(1)),
    "63 groups": lambda: plots.error_by_group(rows(63), "Test error by molecule"),
    "long names": lambda: plots.error_by_group([("C" * 90, rows(1)[0][1])], "Test error"),
    "learning curve": lambda: plots.learning_curve([(100, 3.0, 5.0), (1000, 1.0, 2.0)]),
    "learning curve of 1": lambda: plots.learning_curve([(100, 3.0, 5.0)]),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_fits_a_column_and_its_page(name: str) -> None:
    figure = ALL[name]()
    assert figure.get_size_inches()[0] == plots.COLUMN
    assert_nothing_is_cut_off(figure)
    assert "kcal/mol" in texts(figure)


# ---- loss curve ----------------------------------------------------------------------------------


def test_loss_curve_draws_the_history() -> None:
    past = history(30)
    figure = plots.loss_curve(past)
    top, middle, bottom = figure.axes
    drawn = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    for label, column in (
        ("training", "train_loss"),
        ("validation", "val_loss"),
        ("MAE", "val_mae"),
        ("RMSE", "val_rmse"),
        ("learning rate", "learning_rate"),
    ):
        np.testing.assert_array_equal(drawn[label].get_xdata(), past["epoch"])
        np.testing.assert_array_equal(drawn[label].get_ydata(), past[column])
    assert top.get_yscale() == middle.get_yscale() == "log"
    assert bottom.get_yscale() == "linear"  # the rate falls to zero
    assert bottom.get_ylim()[0] == 0
    assert top.get_ylabel() == "Loss [(kcal/mol)$^{2}$]"
    assert middle.get_ylabel() == "Validation error (kcal/mol)"
    assert bottom.get_xlabel() == "Epoch"
    assert "best: 0.267 (epoch 30)" in texts(figure)


def test_loss_curve_of_one_epoch_shows_a_point() -> None:
    figure = plots.loss_curve(history(1))
    assert figure.axes[0].get_lines()[0].get_marker() == "o"
    assert [t for t in figure.axes[2].get_xticks() if 0.5 <= t <= 1.5] == [1]


def test_loss_curve_with_gaps_and_without_a_best_epoch() -> None:
    nothing = EpochRecord(1, 1, 0.0, math.inf, math.nan, math.nan, math.nan, 1.0)
    figure = plots.loss_curve(History([nothing]))
    assert "best" not in texts(figure)
    assert_nothing_is_cut_off(figure)


def test_loss_curve_of_nothing() -> None:
    with pytest.raises(DataError, match="no epoch"):
        plots.loss_curve(History())


# ---- parity --------------------------------------------------------------------------------------


def test_parity_draws_energies_above_self_energies() -> None:
    found = evaluation(200)
    figure = plots.parity(found, "Test set")
    axes, below = figure.axes
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 0], (found.reference + 76) * HARTREE_TO_KCALMOL)
    np.testing.assert_allclose(points[:, 1] - points[:, 0], found.errors, atol=1e-9)
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_aspect() == 1.0
    assert axes.get_xlim()[0] < points.min() <= points.max() < axes.get_xlim()[1]
    for label in (axes.get_xlabel(), axes.get_ylabel(), below.get_xlabel()):
        assert "(kcal/mol)" in label
    assert f"MAE {found.energy.mae:.3f}, RMSE" in texts(figure)
    assert "N = 200" in texts(figure)
    assert "Test set" in texts(figure)


def test_histogram_counts_every_error_and_names_the_outliers() -> None:
    found = evaluation(400)
    found.predicted[:3] += 1.0  # 627 kcal/mol: would press all else into one bar
    figure = plots.parity(found)
    counts = [bar.get_height() for bar in figure.axes[1].patches]
    outside = int((np.abs(found.errors) > figure.axes[1].get_xlim()[1]).sum())
    assert 3 <= outside <= 12
    assert sum(counts) + outside == 400
    assert f"{outside} larger, up to 62" in texts(figure)


def test_parity_of_many_points_is_a_density() -> None:
    n = plots.MAX_POINTS + 1
    figure = plots.parity(evaluation(n))
    (cells,) = figure.axes[0].collections
    assert np.asarray(cells.get_array()).sum() == n
    assert "Conformers per cell" in texts(figure)


# ---- groups --------------------------------------------------------------------------------------


def test_groups_are_drawn_worst_first_with_n() -> None:
    figure = plots.error_by_group(rows(3), "Test error by composition", "kcal/mol/atom")
    (axes,) = figure.axes
    assert labels_of(axes) == ["g3", "g2", "g1"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 2.0, 1.0]
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [4.5, 3.0, 1.5])
    assert [text.get_text() for text in axes.texts] == ["30", "20", "10", "N"]
    assert axes.get_xlabel() == "Error (kcal/mol/atom)"
    assert axes.yaxis_inverted()
    assert "Test error by composition" in texts(figure)
    assert "largest" not in texts(figure)


def test_groups_in_the_order_given() -> None:
    figure = plots.error_by_group(rows(3), order="given")
    assert labels_of(figure.axes[0]) == ["g1", "g2", "g3"]


def test_too_many_groups_show_the_worst_and_say_so() -> None:
    figure = plots.error_by_group(rows(63), "Test error by molecule")
    assert labels_of(figure.axes[0]) == [f"g{k}" for k in range(63, 23, -1)]
    assert "the 40 of 63 with the largest MAE" in texts(figure)
    given = plots.error_by_group(rows(63), order="given")
    assert labels_of(given.axes[0]) == [f"g{k}" for k in range(24, 64)]
    heights = [plots.error_by_group(rows(n)).get_size_inches()[1] for n in (3, 20, 40, 63)]
    assert heights[0] < heights[1] < heights[2] <= heights[3] < 9.5


def test_labels_of_neighbouring_groups_do_not_overlap() -> None:
    figure = plots.error_by_group(rows(63))
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 for upper, lower in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("C2H6O", "C$_{2}$H$_{6}$O"),
        ("C10H22", "C$_{10}$H$_{22}$"),
        ("C1CC1", "C1CC1"),  # a ring, not a formula
        ("C1NO1", "C1NO1"),
        ("C$C", r"C\$C"),
        ("CO", "CO"),
    ],
)
def test_only_formulas_get_subscripts(label: str, shown: str) -> None:
    figure = plots.error_by_group([(label, rows(1)[0][1])])
    assert labels_of(figure.axes[0]) == [shown]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["s1/C", "s2/CC"], ["C", "CC"]),
        (["s1/C", "s2/C"], ["s1/C", "s2/C"]),  # two groups must not get one name
        (["s1/C/C=C/C", "s1/N"], ["C/C=C/C", "N"]),  # a slash is a bond here
    ],
)
def test_folders_of_the_file_are_left_out_of_labels(names: list[str], shown: list[str]) -> None:
    stats = rows(1)[0][1]
    figure = plots.error_by_group([(name, stats) for name in names], order="given")
    assert labels_of(figure.axes[0]) == shown


def test_groups_refuse() -> None:
    with pytest.raises(DataError, match="no group"):
        plots.error_by_group([])
    with pytest.raises(SettingsError, match="order"):
        plots.error_by_group(rows(1), order="size")


# ---- learning curve ------------------------------------------------------------------------------


def test_learning_curve_finds_the_slope_of_a_power_law() -> None:
    points = [(n, 30 * n**-0.5, 70 * n**-0.25) for n in (100, 400, 1600)]
    figure = plots.learning_curve(points)
    legend = texts(figure)
    assert "MAE  $\\propto N^{\\mathregular{\N{MINUS SIGN}0.50}}$" in legend
    assert "RMSE  $\\propto N^{\\mathregular{\N{MINUS SIGN}0.25}}$" in legend
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "Training conformers"
    assert axes.get_ylabel() == "Test error (kcal/mol)"


def test_learning_curve_shows_mean_and_spread_of_seeds() -> None:
    figure = plots.learning_curve(
        [(100, 1.0, 4.0), (100, 3.0, 4.0), (50, 5.0, 6.0), (100, 2.0, 4.0)]
    )
    bars = {str(c.get_label()).split()[0]: c for c in figure.axes[0].containers}
    markers, _, (spread,) = bars["MAE"].lines  # type: ignore[attr-defined]
    np.testing.assert_allclose(markers.get_xdata(), [50, 100])
    np.testing.assert_allclose(markers.get_ydata(), [5.0, 2.0])
    np.testing.assert_allclose(spread.get_segments()[1][:, 1], [1.0, 3.0])


@pytest.mark.parametrize("points", [[], [(100, 0.0, 1.0)], [(0, 1.0, 1.0)], [(10, math.nan, 1.0)]])
def test_learning_curve_refuses(points: list[tuple[int, float, float]]) -> None:
    with pytest.raises(DataError, match="learning curve"):
        plots.learning_curve(points)


# ---- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decades", [0, 0.3, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("start", [1e-7, 0.00214, 0.9, 777.0])
def test_a_logarithmic_axis_has_numbers_that_can_be_read(start: float, decades: float) -> None:
    figure = Figure()
    axes = figure.add_subplot()
    plotstyle.log_axis(axes, "y", np.array([start, start * 10**decades]))
    low, high = axes.get_ylim()
    assert low < start <= start * 10**decades < high
    ticks = axes.get_yticks()
    assert 2 <= len(ticks) <= 9
    assert all(low <= t <= high for t in ticks)
    names = [plotstyle.log_tick(t) for t in ticks]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000, "1,000"),
        (0.5, "0.5"),
        (2, "2"),
        (1e-4, "10$^{\N{MINUS SIGN}4}$"),
        (2e5, "2×10$^{5}$"),
    ],
)
def test_numbers_on_logarithmic_axes(value: float, text: str) -> None:
    assert plotstyle.log_tick(value) == text


# ---- files and style -----------------------------------------------------------------------------


def test_save_figure_writes_both_files(tmp_path: Path) -> None:
    figure = plots.learning_curve([(100, 3.0, 5.0), (1000, 1.0, 2.0)])
    paths = plots.save_figure(figure, tmp_path / "plots" / "fold.1")
    assert [path.name for path in paths] == ["fold.1.png", "fold.1.svg"]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["fold.1.png", "fold.1.svg"]
    header = paths[0].read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20]) == round(plots.COLUMN * 200)
    root = ElementTree.parse(paths[1]).getroot()
    assert root.get("width") == f"{plots.COLUMN * 72:g}pt"


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    def saved(stem: str) -> list[bytes]:
        figure = plots.parity(evaluation(50))
        return [path.read_bytes() for path in plots.save_figure(figure, tmp_path / stem)]

    first, second = saved("a"), saved("b")
    assert first == second
    assert b"<dc:date>" not in first[1]


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        plots.save_figure(plots.loss_curve(history(2)), tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_the_style_of_the_user_is_neither_used_nor_changed() -> None:
    def drawn() -> bytes:
        content = io.BytesIO()
        plots.loss_curve(history(3)).savefig(content, format="png", dpi=60)
        return content.getvalue()

    plain = drawn()
    with matplotlib.rc_context({"font.size": 20.0, "xtick.labelsize": 20.0, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert drawn() == plain
        assert dict(matplotlib.rcParams) == before


def test_show_displays_in_a_notebook_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    shell = SimpleNamespace()  # a terminal's shell has no kernel
    display = SimpleNamespace(
        display=lambda image: shown.append(image.data),
        Image=lambda data, width: SimpleNamespace(data=data),
    )
    figure = plots.loss_curve(history(2))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    plots.show(figure)
    assert shown == []
    shell.kernel = object()
    plots.show(figure)
    assert [data[:4] for data in shown] == [b"\x89PNG"]
    monkeypatch.delitem(sys.modules, "IPython")
    plots.show(figure)
    assert len(shown) == 1


def test_titles_begin_with_a_capital() -> None:
    figure = plots.error_by_group(rows(2), "test error by molecule")
    assert "Test error by molecule" in texts(figure)


def test_no_pyplot() -> None:
    code = "import sys, anipot.report.figures.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
