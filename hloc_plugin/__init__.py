"""hloc and pycolmap integration of kornia-tar (its matcher comes with issue E)."""
