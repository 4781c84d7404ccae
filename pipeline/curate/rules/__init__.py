"""The rules of curation, one file each: what a row must be to stay."""
