"""AEVSettings: lengths, order of pairs, published constants, and what is refused."""

import itertools
import json
import math

import pytest

from anipot.aev import AEVSettings
from anipot.errors import SettingsError

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
    with pytest.raises(SettingsError, match="'ani3x'; known: ani1x, ani2x"):
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
