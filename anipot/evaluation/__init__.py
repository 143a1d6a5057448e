"""Errors of potentials on data, training histories and calibrated uncertainties."""
