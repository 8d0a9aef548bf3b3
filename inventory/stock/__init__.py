"""What `inventory stock` does: reading, adjusting, importing and exporting stock."""
