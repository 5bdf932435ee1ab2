"""Tools of the repository: the local cluster, images, the demo, pinned constraints."""
