"""Programs that run inside the images, most of them while they are built: the standard library and nothing else."""
