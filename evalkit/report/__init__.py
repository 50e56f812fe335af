"""Tables: measured figures beside published ones."""
