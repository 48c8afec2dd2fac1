"""A training run around Process.py: settings, choices, bad batches, resume, clock, log, page."""
