"""Readers of structure files other than XYZ. Each refuses what it cannot read as it is meant."""
