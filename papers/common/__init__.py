"""What the scripts of this folder share: runs that are kept, data, claims, pages."""
