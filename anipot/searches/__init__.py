"""Searches: options found by Optuna, judged by the validation part alone."""
