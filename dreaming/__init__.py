"""Imagines, learns from it, and is held to account."""
