"""Folders of pairs: pairs, splits, labels, survey, copies, check, imports, the drawn sample."""
