"""What one imports: trained policies, frozen flows and datasets as plain objects, NumPy in and NumPy out."""
