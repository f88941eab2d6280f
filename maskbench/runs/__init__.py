"""One run, from its resolved configuration to its record: plan, execution, resume, lease, artifacts."""
