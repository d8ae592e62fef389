"""What tests of applications need: a model server that needs no model."""
