"""The subcommands of ``kornia-tar``, a file each: its options, and what it does with them."""
