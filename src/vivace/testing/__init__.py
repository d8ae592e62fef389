"""For tests of applications: a fake model server, its faults, fixtures, conformance tests."""
