"""What makes a script a good command: flags, errors and exit codes, whole files, locks."""
