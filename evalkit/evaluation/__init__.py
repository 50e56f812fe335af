"""Protocols: from features to figures. `settings` says what is measured, `evaluate` measures it."""
