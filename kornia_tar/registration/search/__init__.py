"""Search where an alignment begins: the pose of two whole images, or the place of a chip in a large one."""
