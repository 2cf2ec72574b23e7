"""The page that scores images dropped on it."""
