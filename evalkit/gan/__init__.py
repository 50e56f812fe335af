"""The DCGAN: recipes, networks, training, checkpoints."""
