"""What a run leaves behind: matches, registered image, tie points, pictures, report."""
