"""Certificates, and leave one out."""
