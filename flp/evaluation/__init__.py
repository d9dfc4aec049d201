"""Evaluation of policies: many environments stepped together, success counted, episodes filmed."""
