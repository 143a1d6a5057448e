"""Content of the folder of a run, read for its report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anipot.config import RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import PARTS, Division, read_data
from anipot.data.mapping import log
from anipot.errors import AnipotError, SettingsError
from anipot.report.structures import with_structures
from anipot.system.files import damage_named, read_json
from anipot.system.options import checked, read_yaml

#: More groups than this are a list that nobody reads: those with the largest errors are shown.
_MOST_GROUPS = 20


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: its run.json, its options, and the part whose errors are shown.

    ``part`` is the test part, or else what there is; None where nothing was kept apart.
    """

    folder: Path
    run: dict[str, Any]
    settings: RunSettings
    part: str | None

    @classmethod
    def read(cls, folder: Path) -> RunFolder:
        """Raises SettingsError for a folder without the results of a run."""
        run: dict[str, Any] = {}
        for name in ("run.json", "options.yaml"):
            if not (folder / name).exists():
                raise SettingsError(
                    f"{folder} holds no results of a run ({name} is missing); if the run was "
                    f"interrupted, finish it first: anipot train --resume {folder}"
                )
            run = run or read_json(folder / "run.json", way_out=cls.way_out(folder))
        with damage_named(folder / "options.yaml"):
            settings = checked(RunSettings, read_yaml(folder / "options.yaml"))
        with damage_named(folder / "run.json", way_out=cls.way_out(folder)):
            part = "test" if "test" in run["results"] else next(iter(run["results"]), None)
        return cls(folder, run, settings, part)

    @staticmethod
    def way_out(folder: Path) -> str:
        """Advice for a damaged run.json."""
        return f"to write it again: anipot train --resume {folder}"

    @property
    def results(self) -> dict[str, Any] | None:
        """The errors of the part."""
        return None if self.part is None else self.run["results"][self.part]

    @property
    def n_train(self) -> int:
        return int(self.run["data"]["split"]["train"])

    @property
    def machine(self) -> dict[str, Any]:
        """Versions and machine; of an ensemble those that its first member was trained with."""
        run = self.run
        if "machine" not in run:
            with suppress(AnipotError):
                run = read_json(self.folder / "members" / "1" / "run.json")
        found: dict[str, Any] = run.get("machine", {})
        return found

    def shown(self, evaluated: Conformers | None = None) -> dict[str, Any]:
        """Errors for the templates: groups, and the worst conformers with structures.

        ``evaluated``: the conformers of the part; None: they are read again.
        """
        results = self.results
        shown: dict[str, Any] = {"part": self.part, "results": results, "missing": ""}
        if results is None or self.part is None:
            return {**shown, "groups": [], "worst": [], "structures": []}
        # The training part may be of millions, and is needed for nothing but reading again.
        needed = PARTS if evaluated is None else (self.part,)
        division = Division.load(self.folder / "split.npz", needed)
        if evaluated is None:
            try:
                data = read_data(self.settings.data)
                evaluated = division.take(data)[PARTS.index(self.part)]
            except (AnipotError, OSError) as e:
                log.warning("WARNING, the page shows no structures: %s", e)
                shown["missing"] = "The data could not be read when this page was written."
        worst = with_structures(results["worst"], evaluated)
        # Counted in the part there, and in all the data here.
        places = getattr(division, self.part)
        return {
            **shown,
            "groups": _groups(results, division.by),
            "worst": [{**row, "conformer": int(places[row["conformer"]])} for row in worst],
            "structures": [row["xyz"] for row in worst],
        }


def files_in(folder: Path) -> list[str]:
    """List the files beside the report, folders with a slash."""
    paths = [p for p in sorted(folder.iterdir()) if p.name != "report.html" and p.name[0] != "."]
    return [f"{p.name}/" if p.is_dir() else p.name for p in paths]


def _groups(results: Mapping[str, Any], by: str) -> list[dict[str, Any]]:
    """Tables of errors by group: title, rows, how many there are, and whether rows are formulas."""
    kinds = [("by_formula", "composition"), ("by_heavy_atoms", "heavy atoms")]
    if by == "molecule":
        kinds.insert(0, ("by_molecule", "molecule"))
    found = []
    for key, title in kinds:
        rows = results[key]
        shown = rows
        if len(rows) > _MOST_GROUPS:
            shown = sorted(rows, key=lambda row: -row["mae"])[:_MOST_GROUPS]
        largest = max((row["rmse"] for row in shown), default=0.0)
        found.append(
            {"title": title, "rows": shown, "of": len(rows), "largest": largest, "key": key}
        )
    return found
