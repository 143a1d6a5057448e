"""Files in, Conformers out: one reader a kind of file, a check, and the bundled data."""

from anipot.datasets.bundled import bundled_path, load_bundled, read_molecule_list
from anipot.datasets.check import Problem, check_conformers, check_file
from anipot.datasets.describe import Summary, describe
from anipot.datasets.extxyz import conformers_from_atoms
from anipot.datasets.load import load_dataset

__all__ = [
    "Problem",
    "Summary",
    "bundled_path",
    "check_conformers",
    "check_file",
    "conformers_from_atoms",
    "describe",
    "load_bundled",
    "load_dataset",
    "read_molecule_list",
]
