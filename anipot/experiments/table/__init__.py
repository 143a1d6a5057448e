"""Tables of runs over hyperparameters."""
