"""Matchers without learned numbers."""
