"""``python -m eval study NAME`` of what the words bring: one file a study, as in :mod:`eval.studies.text`."""
