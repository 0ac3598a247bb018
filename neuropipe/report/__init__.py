"""Figures, tables and the page; reads tables, never models."""
