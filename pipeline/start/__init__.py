"""From nothing to a project: its files, git, DVC, and a configuration for one's own data."""
