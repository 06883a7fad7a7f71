"""Watching training: looks as it goes on, cheap enough to leave on, that change nothing in it."""
