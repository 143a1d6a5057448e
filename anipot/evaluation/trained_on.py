"""Which conformers of a data set a potential was trained on: scoring those says little."""

from __future__ import annotations

from pathlib import Path

from anipot.config import DataSettings
from anipot.data.conformers import Conformers
from anipot.data.division import select
from anipot.data.provenance import divide_again
from anipot.errors import AnipotError, DataError
from anipot.potential.base import Potential
from anipot.system.options import checked


def part_of(model: Potential, conformers: Conformers, part: str = "all") -> tuple[Conformers, str]:
    """A part of the data that a potential was trained on, and a warning where one is due.

    ``part`` is "all", or "train", "validation" or "test": these need the very data of the training,
    recognised by its hash, which is divided again as the potential's file says. The warning says
    how many of the conformers were trained on, or that some may have been where the data only
    comes from a file of the same name. Raises DataError when a part is asked for of other data.
    """
    known = model.about.get("data")
    try:
        if not known:
            raise DataError("the potential does not say what it was trained on")
        selected = select(conformers, checked(DataSettings, known["options"]))
        division = divide_again(selected, known)
    except (AnipotError, KeyError) as e:
        if part != "all":
            reason = f"the potential's record of it lacks {e}" if isinstance(e, KeyError) else e
            raise DataError(f"part {part!r} cannot be told: {reason}") from None
        if known and conformers.content_hash() == known.get("train", {}).get("sha256"):
            return conformers, "Beware: the potential was trained on exactly these conformers."
        own = {Path(name).name for name in conformers.sources}
        shared = sorted(own.intersection(known.get("files", ()) if known else ()))
        if not shared:
            return conformers, ""
        return conformers, (
            f"Beware: the potential was trained on conformers of {', '.join(shared)}, but not on "
            "this selection of them, so how many of these it has seen is not known."
        )
    seen = len(division.train)
    if known.get("members_by_fold"):
        seen += len(division.validation)
        if part in ("train", "validation"):
            raise DataError(
                f"part {part!r} cannot be told: each member of the ensemble validated on another "
                "fold, so that only the test part is unknown to all; take --part test"
            )
    if part == "all":
        return conformers, (
            f"Beware: the potential was trained on {seen:,} of these "
            f"{len(conformers):,} conformers. For an honest error: --part test"
        )
    return selected.take(getattr(division, part)), ""
