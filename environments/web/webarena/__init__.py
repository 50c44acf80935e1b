"""WebArena's tasks and their evaluation: its own files in, its own scores out."""
