"""Doors to other projects; each module needs that project installed."""
