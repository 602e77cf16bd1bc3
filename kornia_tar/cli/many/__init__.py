"""``kornia-tar register-many``: a table of pairs, shared among workers on this machine or on a Ray cluster."""
