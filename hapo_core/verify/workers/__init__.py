"""Killable worker processes: a hostile answer costs one of them, never the run."""
