"""Dense alignment: all cells' displacement maps together say which transform joins two images."""
