"""Language models as torch modules."""
