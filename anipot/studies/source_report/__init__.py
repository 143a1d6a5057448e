"""The table of the source report, as its recipe was written and as it was meant."""
