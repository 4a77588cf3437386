"""Name the mistakes in tables of angles and in frequencies."""
