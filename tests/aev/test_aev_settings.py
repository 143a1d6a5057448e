"""AEVSettings: lengths, order of pairs, published constants, and what is refused."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from anipot.aev import AEVSettings
from anipot.elements import SYMBOLS
from anipot.errors import SettingsError
from anipot.potential.model import ANIModel

ANI1X, ANI2X = AEVSettings.ani1x(), AEVSettings.ani2x()


def test_lengths_of_the_published_settings():
    assert (ANI1X.radial_length, ANI1X.angular_length, ANI1X.length) == (64, 320, 384)
    assert (ANI2X.radial_length, ANI2X.angular_length, ANI2X.length) == (112, 896, 1008)


def test_shifts_are_the_multiples_that_the_published_digits_stand_for():
    for settings, first, high in ((ANI1X, 0.9, 5.2), (ANI2X, 0.8, 5.1)):
        for k, shift in enumerate(settings.radial_shifts):
            assert shift == pytest.approx(first + k * (high - first) / 16, abs=5e-8)
    for q, shift in enumerate(ANI1X.angle_shifts):
        assert shift == pytest.approx((2 * q + 1) * math.pi / 16, abs=5e-8)
    for q, shift in enumerate(ANI2X.angle_shifts):
        assert shift == pytest.approx((2 * q + 1) * math.pi / 8, abs=5e-8)


@pytest.mark.parametrize("elements", ["H", "HC", "HCNO", "HCNOSFCl"])
def test_pair_index_counts_the_upper_triangle_row_by_row(elements):
    settings = ANI1X.with_elements(elements)
    pairs = itertools.combinations_with_replacement(range(settings.n_elements), 2)
    for place, (a, b) in enumerate(pairs):
        assert settings.pair_index(a, b) == settings.pair_index(b, a) == place
    assert settings.angular_length == (place + 1) * settings.angular_terms


def test_saved_and_read_back_through_json_is_the_same():
    for settings in (ANI1X, ANI2X):
        assert AEVSettings(**json.loads(json.dumps(settings.to_dict()))) == settings
        assert hash(AEVSettings(**json.loads(json.dumps(settings.to_dict())))) == hash(settings)


def test_named():
    assert AEVSettings.named("ani1x") == ANI1X
    assert AEVSettings.named("ani2x", "HC").elements == ("H", "C")
    with pytest.raises(SettingsError, match="'ani3x'; known: ani1x, ani2x, cover"):
        AEVSettings.named("ani3x")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"radial_cutoff": 0}, "radial_cutoff must be a positive"),
        ({"angular_cutoff": math.nan}, "angular_cutoff must be a positive"),
        ({"angular_cutoff": 5.3}, "must not exceed radial_cutoff"),
        ({"radial_shifts": ()}, "radial_shifts must be a non-empty list"),
        ({"angular_shifts": (1.0, math.inf)}, "angular_shifts must be a non-empty list"),
        ({"radial_eta": (16.0, -1.0)}, "radial_eta must not be negative"),
        ({"angular_eta": (-8.0,)}, "angular_eta must not be negative"),
        ({"zeta": (32.0, 0.5)}, "zeta must be at least 1"),
        ({"elements": ("H", "H")}, "named twice"),
        ({"elements": ("H", "Xx")}, "'Xx' is not the symbol"),
    ],
)
def test_settings_that_make_no_aev_are_refused(change, why):
    with pytest.raises(SettingsError, match=why):
        AEVSettings(**{**ANI1X.to_dict(), **change})


def test_cover_of_the_published_elements_and_cutoffs_is_the_published_settings():
    assert AEVSettings.cover("HCNO", 5.2, 3.5, 16, 4, 8) == AEVSettings.cover("HCNO") == ANI1X
    sharper = {"zeta": 14.1, "radial_eta": 19.7, "angular_eta": 12.5}
    cover = AEVSettings.cover("HCNOSFCl", 5.1, 3.5, 16, 8, 4, radial_start=0.8, **sharper)
    assert cover == ANI2X


def shells(settings: AEVSettings) -> list[tuple[float, float, float, float]]:
    """(eta, first shift, spacing, cutoff) of the radial and of the angular shells."""
    found = []
    for (eta,), shifts, cutoff in (
        (settings.radial_eta, settings.radial_shifts, settings.radial_cutoff),
        (settings.angular_eta, settings.angular_shifts, settings.angular_cutoff),
    ):
        found.append((eta, shifts[0], (cutoff - shifts[0]) / len(shifts), cutoff))
        for a, b in itertools.pairwise((*shifts, cutoff)):
            assert b - a == pytest.approx(found[-1][2], abs=1e-6)
    return found


@settings_of(deadline=None, max_examples=50)
@given(
    elements=st.lists(st.sampled_from(SYMBOLS[1:97]), min_size=1, max_size=6, unique=True),
    angular_cutoff=st.floats(4.0, 8.0),
    wider=st.floats(0.0, 4.0),
    terms=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(3, 16)),
)
def test_cover_spreads_shells_that_overlap_as_those_of_ani1x(
    elements, angular_cutoff, wider, terms
):
    cover = AEVSettings.cover(elements, angular_cutoff + wider, angular_cutoff, *terms)
    assert cover.elements == tuple(elements)
    assert (cover.radial_terms, cover.angular_terms) == (terms[0], terms[1] * terms[2])
    for (eta, first, spacing, _), (eta_1x, _, spacing_1x, _) in zip(
        shells(cover), shells(ANI1X), strict=True
    ):
        assert first >= 0.9
        # The height at which the Gaussians of two neighbours cross.
        assert math.exp(-eta * spacing**2 / 4) == pytest.approx(
            math.exp(-eta_1x * spacing_1x**2 / 4), rel=1e-4
        )
    # Each angle stands in the middle of its part of 0 to pi, and the parts are equal.
    part = math.pi / terms[2]
    for q, shift in enumerate(cover.angle_shifts):
        assert shift == pytest.approx((q + 0.5) * part, rel=1e-7)
    assert cover.zeta[0] * part**2 == pytest.approx(ANI1X.zeta[0] * (math.pi / 8) ** 2, rel=1e-6)


def test_cover_starts_where_atoms_come_close():
    assert AEVSettings.cover("HCNO").radial_shifts[0] == 0.9
    # The smallest distances in the training sets of Zuo et al. (2020): 2.00 and 1.83 angstrom.
    assert 1.5 < AEVSettings.cover("Si").radial_shifts[0] < 1.83
    assert 1.5 < AEVSettings.cover("Li").radial_shifts[0] < 2.00
    assert AEVSettings.cover("SiO").radial_shifts[0] == AEVSettings.cover("O").radial_shifts[0]
    assert AEVSettings.cover("Li", radial_start=1.2).angular_shifts[0] == 1.2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"elements": "HCH"}, "named twice"),
        ({"elements": ["Xx"]}, "'Xx' is not the symbol"),
        ({"radial_cutoff": -1}, "radial_start, the innermost shell"),
        ({"angular_cutoff": math.nan}, "angular_cutoff must be a positive number"),
        ({"radial_cutoff": math.inf}, "radial_cutoff must be a positive number"),
        ({"angular_cutoff": 6.0}, "must not exceed radial_cutoff"),
        ({"elements": "Cs"}, r"3.66 angstrom.*angular_cutoff \(3.5\).*larger cutoffs"),
        ({"radial_start": 0}, "must lie between 0"),
        ({"radial_terms": 0}, "radial_terms must be at least 1, not 0"),
        ({"angle_terms": 0}, "angle_terms must be at least 1, not 0"),
        ({"zeta": 0.5}, "zeta must be at least 1"),
    ],
)
def test_cover_refuses_what_makes_no_aev(arguments, why):
    with pytest.raises(SettingsError, match=why):
        AEVSettings.cover(**{"elements": "HCNO", **arguments})


def test_cover_by_name_takes_options_and_other_names_take_none():
    assert AEVSettings.named("cover", "Si", radial_cutoff=6.0) == AEVSettings.cover("Si", 6.0)
    with pytest.raises(SettingsError, match="zeta: AEV settings 'ani1x' have constants"):
        AEVSettings.named("ani1x", zeta=14.1)
    with pytest.raises(SettingsError, match="'cover' are made for elements"):
        AEVSettings.named("cover")


def test_a_model_covers_with_the_options_of_a_run():
    options = {"aev": "cover", "radial_cutoff": 6.0, "angular_terms": 5, "hidden": [4]}
    model = ANIModel.create("SiO", **options)
    assert model.aev.settings == AEVSettings.cover("SiO", 6.0, angular_terms=5)
    with pytest.raises(SettingsError, match=r"radial_cutoff.* is for aev=cover; ani1x has"):
        ANIModel.create("SiO", radial_cutoff=6.0)
