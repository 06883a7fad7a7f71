"""Random matrices: numbers in, numbers out. Laws, spikes and saddles to compare with."""

from hesscope.results.saddles import IndexCurve as IndexCurve
from hesscope.rmt.laws import MarchenkoPastur as MarchenkoPastur
from hesscope.rmt.laws import Semicircle as Semicircle
from hesscope.rmt.saddles import index_curve as index_curve
from hesscope.rmt.saddles import negative_share as negative_share
from hesscope.rmt.spikes import Spike as Spike
from hesscope.rmt.spikes import additive_spike as additive_spike
from hesscope.rmt.spikes import additive_strength as additive_strength
from hesscope.rmt.spikes import covariance_spike as covariance_spike
from hesscope.rmt.spikes import covariance_strength as covariance_strength
