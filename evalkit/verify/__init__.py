"""verify: re-computes what it can of measured figures, from their run cards and the artifacts at hand."""
