"""Policies in environments: many environments stepped together, success counted, episodes filmed."""
