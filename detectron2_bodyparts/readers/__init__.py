"""One module per dataset: its original files -> records. Independent of the models."""
