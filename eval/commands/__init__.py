"""The subcommands of ``python -m eval``, a file each: its options, and what it does with them.

What one command alone needs is imported when it runs.
"""
