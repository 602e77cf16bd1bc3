"""One-off questions with their answers kept in ``eval/results``: ``python -m eval study NAME``."""
