"""Predict and score: pairs under stored warps, matches kept on disk, metrics, tables."""
