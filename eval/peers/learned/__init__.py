"""Learned matchers, with their authors' weights."""
