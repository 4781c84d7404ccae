"""Tasks that ship with hapo: problems, answers and teacher traces from a generator."""
