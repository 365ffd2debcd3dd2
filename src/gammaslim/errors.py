"""The exception tree: every error says what was asked, what was found, and what to do."""


class GammaslimError(Exception):
    """Base of every error that gammaslim raises on purpose."""


class TraceError(GammaslimError):
    """The network could not be traced with the inputs given."""


class NothingToPruneError(GammaslimError):
    """The network has no BatchNorm scale, or none whose channel may go."""


class RuleError(GammaslimError):
    """A rule is registered for what is no operator, or for one that has its rule already."""


class TargetError(GammaslimError):
    """A selection target is ambiguous, out of range, or cannot be met."""


class UnreachableError(TargetError):
    """Floors, caps and frozen channels put a selection target out of reach."""


class ScoreError(GammaslimError):
    """Scores cannot be computed or do not belong to the graph (NaN scales, wrong length)."""


class SiteError(GammaslimError):
    """A tensor, a dimension or an index is named that the graph does not have."""


class PlanError(GammaslimError):
    """A plan does not fit the graph or network it is applied to, or its text is malformed."""


class StaleGraphError(GammaslimError):
    """The network has changed its shape since the graph was traced."""


class PenaltyError(GammaslimError):
    """A penalty is not one, or its strength cannot be used."""


class OptimizerError(GammaslimError):
    """The optimizer does not own the parameters in question, or its state cannot be cut."""


class VerificationError(GammaslimError):
    """The cut network does not compute what the masked network computes; it was restored."""


class CalibrationError(GammaslimError):
    """Calibration data cannot be used: it can be read only once, is empty, or the network fails."""


class FileFormatError(GammaslimError):
    """A file is not a gammaslim file, is damaged, or does not fit the network."""


class MissingExtraError(GammaslimError):
    """A feature needs an optional dependency that is not installed."""


class GammaslimWarning(UserWarning):
    """Something works, but probably not as the user expects."""
