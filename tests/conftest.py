"""Lets tests in subfolders import the helpers that lie here."""
