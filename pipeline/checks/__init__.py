"""Looks before and during a run: status, dry run, doctor, round profile."""
