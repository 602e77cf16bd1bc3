"""TAR, through its door."""
