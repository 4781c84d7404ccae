"""The project's root, processes, locks, DVC's state, secrets."""
