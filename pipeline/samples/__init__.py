"""Reading what a run produced: responses with their verdicts, in the terminal and on a page."""
