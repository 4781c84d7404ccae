"""Evaluating any model, and scoring given answers, outside of the stage graph."""
