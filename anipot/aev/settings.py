"""AEVSettings: the constants that define an atomic environment vector, and its layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase.data import covalent_radii

from anipot.elements import number_of, parse_elements
from anipot.errors import SettingsError


@dataclass(frozen=True)
class AEVSettings:
    """Constants of the AEV, named as in the ANI paper.

    Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192, eqs. 2 to 4, with NeuroChem's
    prefactors 0.25 (radial) and 2 (angular) and theta = acos(0.95 cos).

    - ``elements``: symbols in the order in which the AEV's blocks stand;
    - ``radial_cutoff`` (Rcr), ``angular_cutoff`` (Rca): angstrom;
    - ``radial_eta`` (EtaR) and ``radial_shifts`` (ShfR): 1/angstrom^2 and angstrom;
    - ``angular_eta`` (EtaA) and ``angular_shifts`` (ShfA): 1/angstrom^2 and angstrom;
    - ``zeta`` (Zeta) and ``angle_shifts`` (ShfZ): none and radian.

    Layout of one atom's AEV: ``[radial | angular]``. Radial: a block per neighbour element, in it
    EtaR outer, ShfR inner. Angular: a block per pair of elements (upper triangle, row by row: HH HC
    HN HO CC ...), in it EtaA, Zeta, ShfA, ShfZ from the outermost to the innermost.
    """

    elements: tuple[str, ...]
    radial_cutoff: float
    angular_cutoff: float
    radial_eta: tuple[float, ...]
    radial_shifts: tuple[float, ...]
    angular_eta: tuple[float, ...]
    zeta: tuple[float, ...]
    angular_shifts: tuple[float, ...]
    angle_shifts: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", parse_elements(self.elements))
        for name in ("radial_cutoff", "angular_cutoff"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be a positive number of angstrom, not {value}")
        if self.angular_cutoff > self.radial_cutoff:
            raise SettingsError(
                f"angular_cutoff ({self.angular_cutoff}) must not exceed radial_cutoff "
                f"({self.radial_cutoff})"
            )
        for name in (
            "radial_eta", "radial_shifts", "angular_eta", "zeta", "angular_shifts", "angle_shifts",
        ):  # fmt: skip
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or not all(math.isfinite(v) for v in values):
                raise SettingsError(f"{name} must be a non-empty list of finite numbers")
        for name in ("radial_eta", "angular_eta"):
            if min(getattr(self, name)) < 0:  # a Gaussian that grows with the distance
                raise SettingsError(f"{name} must not be negative, not {min(getattr(self, name))}")
        if min(self.zeta) < 1:
            raise SettingsError(
                f"zeta must be at least 1 (the AEV must be smooth), not {min(self.zeta)}"
            )

    # ---- lengths -----------------------------------------------------------------------------

    @property
    def n_elements(self) -> int:
        return len(self.elements)

    @property
    def radial_terms(self) -> int:
        """Columns of one radial block (16 for ANI-1x)."""
        return len(self.radial_eta) * len(self.radial_shifts)

    @property
    def angular_terms(self) -> int:
        """Columns of one angular block (32 for ANI-1x)."""
        return (
            len(self.angular_eta)
            * len(self.zeta)
            * len(self.angular_shifts)
            * len(self.angle_shifts)
        )

    @property
    def radial_length(self) -> int:
        """Columns of the radial part (64 for ANI-1x)."""
        return self.n_elements * self.radial_terms

    @property
    def angular_length(self) -> int:
        """Columns of the angular part (320 for ANI-1x)."""
        return self.n_elements * (self.n_elements + 1) // 2 * self.angular_terms

    @property
    def length(self) -> int:
        """Columns of the AEV: 384 for ANI-1x, 1008 for ANI-2x."""
        return self.radial_length + self.angular_length

    def pair_index(self, a: int, b: int) -> int:
        """Place of the angular block of neighbour elements ``a`` and ``b`` (indices, any order)."""
        a, b = min(a, b), max(a, b)
        return a * self.n_elements - a * (a - 1) // 2 + (b - a)

    def columns(self, elements: Sequence[int]) -> np.ndarray:
        """Columns of the AEV that belong to ``elements`` (indices, rising) alone, in rising order.

        They are, in this order, the columns of ``with_elements`` of these elements. In a conformer
        without other elements, all other columns are zero.
        """
        r, a = self.radial_terms, self.angular_terms
        blocks = [e * r + np.arange(r) for e in elements]
        for i, first in enumerate(elements):
            for second in elements[i:]:
                start = self.radial_length + self.pair_index(first, second) * a
                blocks.append(start + np.arange(a))
        return np.concatenate(blocks)

    # ---- published and other settings --------------------------------------------------------

    @classmethod
    def ani1x(cls, elements: str | Iterable[str] = "HCNO") -> AEVSettings:
        """The constants of ANI-1x and ANI-1ccx, as written in their parameter files (8 digits)."""
        return cls(
            elements=parse_elements(elements),
            radial_cutoff=5.2,
            angular_cutoff=3.5,
            radial_eta=(16.0,),
            radial_shifts=tuple(round(0.9 + k * 4.3 / 16, 7) for k in range(16)),
            angular_eta=(8.0,),
            zeta=(32.0,),
            angular_shifts=(0.9, 1.55, 2.2, 2.85),
            angle_shifts=(
                0.19634954, 0.58904862, 0.98174770, 1.3744468,
                1.7671459, 2.1598449, 2.5525440, 2.9452431,
            ),
        )  # fmt: skip

    @classmethod
    def ani2x(cls, elements: str | Iterable[str] = "HCNOSFCl") -> AEVSettings:
        """The constants of ANI-2x, as written in its parameter file (8 digits)."""
        return cls(
            elements=parse_elements(elements),
            radial_cutoff=5.1,
            angular_cutoff=3.5,
            radial_eta=(19.7,),
            radial_shifts=tuple(round(0.8 + k * 4.3 / 16, 7) for k in range(16)),
            angular_eta=(12.5,),
            zeta=(14.1,),
            angular_shifts=tuple(round(0.8 + k * 2.7 / 8, 7) for k in range(8)),
            angle_shifts=(0.39269908, 1.1780972, 1.9634954, 2.7488936),
        )

    @classmethod
    def cover(
        cls,
        elements: str | Iterable[str],
        radial_cutoff: float = 5.2,
        angular_cutoff: float = 3.5,
        radial_terms: int = 16,
        angular_terms: int = 4,
        angle_terms: int = 8,
        *,
        zeta: float | None = None,
        radial_start: float | None = None,
        radial_eta: float | None = None,
        angular_eta: float | None = None,
    ) -> AEVSettings:
        """Settings for any elements and cutoffs, spread as those of ANI-1x are.

        - ``radial_terms`` shells of distance (ShfR) and ``angular_terms`` of mean distance (ShfA)
          stand evenly from ``radial_start`` to their cutoff, which is no shell itself: there the
          cutoff function is zero. ``angle_terms`` angles (ShfZ) halve as many parts of 0 to pi. An
          angular block has ``angular_terms * angle_terms`` columns.
        - ``radial_start``, angstrom: by default 1.5 times the smallest covalent radius (Cordero et
          al., Dalton Trans. 2008, 2832), where atoms hardly ever come closer, and not below the
          0.9 of ANI-1x.
        - ``radial_eta``, ``angular_eta`` and ``zeta`` by default let neighbouring shells overlap as
          in ANI-1x, whose spacings d give EtaR d^2 = 1.156, EtaA d^2 = 3.38, Zeta d^2 = pi^2/2.

        All numbers have eight digits, as published ones have: ``cover("HCNO")`` equals ``ani1x()``.
        Raises SettingsError for what is no element, and for cutoffs, start or numbers of terms that
        make no AEV.
        """
        elements = parse_elements(elements)
        terms = {
            "radial_terms": radial_terms,
            "angular_terms": angular_terms,
            "angle_terms": angle_terms,
        }
        for name, value in terms.items():
            if value < 1:
                raise SettingsError(f"{name} must be at least 1, not {value}")
        if radial_start is None:
            smallest = min(float(covalent_radii[number_of(e)]) for e in elements)
            radial_start = max(1.5 * smallest, 0.9)
        if not 0 < radial_start < min(radial_cutoff, angular_cutoff):
            raise SettingsError(
                f"radial_start, the innermost shell, is {radial_start:g} angstrom, and must lie "
                f"between 0 and angular_cutoff ({angular_cutoff:g}) and radial_cutoff "
                f"({radial_cutoff:g}); give larger cutoffs or another radial_start"
            )

        def digits(*values: float) -> tuple[float, ...]:
            return tuple(float(f"{v:.8g}") for v in values)

        radial = (radial_cutoff - radial_start) / radial_terms
        angular = (angular_cutoff - radial_start) / angular_terms
        angle = math.pi / angle_terms
        return cls(
            elements=elements,
            radial_cutoff=radial_cutoff,
            angular_cutoff=angular_cutoff,
            radial_eta=digits(16 * (4.3 / 16 / radial) ** 2 if radial_eta is None else radial_eta),
            radial_shifts=digits(*(radial_start + k * radial for k in range(radial_terms))),
            angular_eta=digits(
                8 * (2.6 / 4 / angular) ** 2 if angular_eta is None else angular_eta
            ),
            zeta=digits(max(math.pi**2 / 2 / angle**2, 1.0) if zeta is None else zeta),
            angular_shifts=digits(*(radial_start + k * angular for k in range(angular_terms))),
            angle_shifts=digits(*((q + 0.5) * angle for q in range(angle_terms))),
        )

    @classmethod
    def named(
        cls, name: str, elements: str | Iterable[str] | None = None, **options: Any
    ) -> AEVSettings:
        """Settings by name: ``"ani1x"``, ``"ani2x"``, or ``"cover"`` with its options."""
        makers: dict[str, Callable[..., AEVSettings]] = {
            "ani1x": cls.ani1x,
            "ani2x": cls.ani2x,
            "cover": cls.cover,
        }
        if name not in makers:
            raise SettingsError(f"unknown AEV settings {name!r}; known: {', '.join(makers)}")
        if name == "cover" and elements is None:
            raise SettingsError("AEV settings 'cover' are made for elements; name them")
        if name != "cover" and options:
            raise SettingsError(
                f"{', '.join(options)}: AEV settings {name!r} have constants of their own; "
                "options are for 'cover'"
            )
        return makers[name](**options) if elements is None else makers[name](elements, **options)

    def with_elements(self, elements: str | Iterable[str]) -> AEVSettings:
        """The same constants for other elements."""
        return replace(self, elements=parse_elements(elements))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as saved with a potential; ``AEVSettings(**d)`` reads them back exactly."""
        return asdict(self)
