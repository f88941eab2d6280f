"""The strategies that ship, one concept a file. A file dropped here is registered with no other change."""
