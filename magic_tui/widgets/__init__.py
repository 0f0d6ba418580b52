"""Widgets that several screens use, and the base class of the screens."""
