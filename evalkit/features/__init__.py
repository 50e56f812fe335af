"""Features: from images and an encoder to a feature set."""
