"""Georeferences as a prior: the common grid of two images, and the search near where they say that the images lie."""
