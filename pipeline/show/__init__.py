"""How things are shown: text, charts, pages, loggers."""
