"""Weights trained elsewhere or shipped with the project: index, download, import, and `pretrained:NAME`."""
