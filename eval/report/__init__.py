"""Tables as Markdown and JSON, the report page, pictures of failures."""
