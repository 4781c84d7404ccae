"""What decides a stage's numbers: found, locked before it runs, compared before it publishes."""
