import pytest

from anipot import registry
from anipot.errors import SettingsError
from anipot.registry import Registry


class Entry:
    name = "theirs"

    def load(self):
        return "loaded"


@pytest.fixture
def colors(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()] if group == "g" else [])
    found = Registry("color", "g")
    found.register("red")("#f00")
    return found


def test_names_of_decorators_come_before_those_of_entry_points(colors):
    assert list(colors) == ["red", "theirs"]
    assert "theirs" in colors
    assert "blue" not in colors
    assert (colors["red"], colors["theirs"]) == ("#f00", "loaded")


def test_a_name_is_registered_once(colors):
    with pytest.raises(SettingsError, match="color 'red' is registered already"):
        colors.register("red")("#e00")


def test_an_unknown_name_is_refused_with_the_nearest(colors):
    with pytest.raises(SettingsError, match="unknown color 'rde'; known: red"):
        colors["rde"]
