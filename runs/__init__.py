"""A training run besides its steps: settings, choices, progress, clock, log, curves, page."""
