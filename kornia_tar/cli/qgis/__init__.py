"""kornia-tar in QGIS: the subcommand that installs the plugin, and the plugin, which nothing here imports."""
