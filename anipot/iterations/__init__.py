"""Iteration tables: settings compared fairly, by runs with several seeds on one split."""
