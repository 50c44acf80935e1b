"""Recipes: one TOML file a repeatable run."""
