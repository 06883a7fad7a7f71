"""Watching training: looks as it goes on, cheap enough to leave on, that change nothing in it."""

from hesscope.monitor.trainers import HuggingFaceMonitor as HuggingFaceMonitor
from hesscope.monitor.trainers import LightningMonitor as LightningMonitor
