"""A model: made or loaded, checked, counted."""
