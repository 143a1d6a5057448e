"""Make the potential that comes with anipot: ``data/anipot-hcno.safetensors``.

    python -m benchmarks ship runs/ship members=4 force_weight=0.1

Trains two ensembles on the bundled data with the same options: one on conformers of all molecules,
which is shipped, and one without the validation and test molecules, which tells the error and the
meaning of a disagreement for molecules that an ensemble made in this way has not seen. Run again
after an interruption, it goes on; finished members are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from anipot.config import RunSettings
from anipot.data.published.bundled import BUNDLED, bundled_path
from anipot.formats.load import SHIPPED
from anipot.potential.ensemble import ANIEnsemble
from anipot.runs.members import resume_members, start_members
from anipot.system.options import checked, read_yaml, with_words

NAME = "anipot-hcno"


def trained(folder: Path, words: list[str]) -> ANIEnsemble:
    """The ensemble in ``folder``, trained (or trained further) where it is not finished."""
    if (folder / "options.yaml").exists():
        before = read_yaml(folder / "options.yaml")
        if checked(RunSettings, with_words(before, words)) != checked(RunSettings, before):
            raise SystemExit(f"{folder} was begun with other options; name another folder")
        run = resume_members(folder)
    else:
        run = start_members(checked(RunSettings, with_words({}, ["members=4", *words])), folder)
    if run.ensemble is None:
        raise SystemExit(130)
    return run.ensemble


def ship(folder: Path, words: list[str], out: Path) -> Path:
    """Train both ensembles below ``folder`` and write the shipped potential with its card.

    Errors are by part: of test conformers of known molecules, and of unknown molecules (by the
    second ensemble). The calibration is the second one's, since whoever uses the potential has
    other molecules.
    """
    shipped, unseen = (
        trained(folder / split, [*words, f"split={split}"]) for split in ("conformer", "molecule")
    )
    calibrated = unseen.about.get("calibrated")
    if calibrated is None:
        raise SystemExit("the second ensemble has no calibration: it needs two members or more")
    unknown = "molecules unknown to an ensemble trained in the same way without them"
    return shipped.save(
        out,
        name=NAME,
        source="trained by anipot on its bundled data",
        errors_kcalmol={
            "test conformers of known molecules": shipped.about["errors_kcalmol"]["test"],
            f"test {unknown}": unseen.about["errors_kcalmol"]["test"],
        },
        calibrated={**calibrated, "data": f"{unknown} ({BUNDLED})"},
        molecules_unknown_to_the_second_ensemble={
            part: unseen.about["data"]["split"][f"{part}_molecules"]
            for part in ("validation", "test")
        },
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ship",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of the two runs")
    parser.add_argument("options", nargs="*", help="members=4, epochs=200 ... as for anipot train")
    parser.add_argument(
        "--out",
        type=Path,
        default=bundled_path().parent / SHIPPED[NAME],
        help=f"(default: data/{SHIPPED[NAME]})",
    )
    given = parser.parse_args(argv)
    print(f"written: {ship(given.folder, given.options, given.out)}")
    return 0
