"""From records to statistics, tables, figures and the report: pure functions, without torch."""
