"""Duplicates: within a training set, and between a training set and the test images of a benchmark."""
