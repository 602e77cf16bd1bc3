"""``kornia-tar``: one file a subcommand; ``main`` is the table of them."""
