"""Does what the matcher says of itself hold? Confidence, error estimates, refusals: measured and fitted."""
