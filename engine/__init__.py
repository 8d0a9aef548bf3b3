"""The one transaction through which everything that moves stock goes, and reading what it left."""
