"""What makes a script a good command: flags, versions, errors, exits, whole files, locks, bars."""
