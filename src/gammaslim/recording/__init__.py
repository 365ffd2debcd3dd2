"""One labelled run of a network: what rules talk to."""

from gammaslim.recording.dispatcher import Dispatcher
from gammaslim.recording.findings import ConvSizes, Dims, Findings, Grid, TensorLabels
from gammaslim.recording.operator_call import ALWAYS, OperatorCall, Rule
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.signatures import SIGNATURES
from gammaslim.recording.sizes import (
    COUNTS,
    SHAPE_GETTERS,
    Given,
    PythonCall,
    Size,
    Watcher,
    followed,
)

__all__ = [
    "ALWAYS",
    "COUNTS",
    "SHAPE_GETTERS",
    "SIGNATURES",
    "ConvSizes",
    "Dims",
    "Dispatcher",
    "Findings",
    "Given",
    "Grid",
    "Op",
    "OperatorCall",
    "PythonCall",
    "Recorder",
    "Rule",
    "Size",
    "TensorLabels",
    "Watcher",
    "followed",
]
