"""Examines a problem: measures within a budget, once, and lets diagnosis judge."""

from hesscope.examination.compare import compare as compare
from hesscope.examination.examination import Examination as Examination
from hesscope.examination.examine import diagnose as diagnose
from hesscope.examination.forecast import Forecast as Forecast
from hesscope.examination.forecast import plan as plan
from hesscope.examination.suggest import suggest_lr as suggest_lr
