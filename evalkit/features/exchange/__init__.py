"""Feature sets and other people's files: arrays made elsewhere come in, features go out, sets are joined."""
