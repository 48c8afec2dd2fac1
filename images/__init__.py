"""Pixels of any file, and back: formats, pages, channels, values, figures."""
