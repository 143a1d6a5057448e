"""Figures of trainings, errors and calibrations."""
