"""What params.yaml may say, checked: its sections, how it is read, and the runs it asks for."""
