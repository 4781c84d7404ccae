"""Prompts in, graded responses out."""
