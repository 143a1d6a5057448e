"""Measurements that stand in the README: ``python -m benchmarks NAME``. One file each."""
