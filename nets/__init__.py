"""A net as data, free of Jittor: catalogue, geometry, checkpoint, others' weights."""
