"""The mathematical verifier: two answers in, a verdict out."""
