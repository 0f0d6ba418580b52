"""The Textual application: navigation, help, terminal output."""
