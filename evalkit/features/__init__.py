"""Features: from pictures and an encoder to a feature set."""
