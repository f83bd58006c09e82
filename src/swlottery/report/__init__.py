"""What people read: logs, figures, tables."""
