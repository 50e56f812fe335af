"""Probes: classifiers on frozen features. `l2svm` is the paper's; the others put its number in context."""
