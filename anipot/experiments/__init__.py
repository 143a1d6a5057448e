"""Many runs: tables of hyperparameters, and searches."""
