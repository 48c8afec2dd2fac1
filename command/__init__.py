"""What makes a script a good command: flags, errors, exit codes, whole files, locks, bars."""
