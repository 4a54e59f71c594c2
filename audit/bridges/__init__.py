"""Every conversion to and from a peer library: one file each, and the library is imported nowhere else."""
