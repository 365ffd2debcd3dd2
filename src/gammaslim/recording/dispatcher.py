"""The dispatcher: every operator of a labelled run goes to its rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from gammaslim.channels import Recount
from gammaslim.recording.operator_call import OperatorCall, Rule
from gammaslim.recording.ops import Op, tensors_in
from gammaslim.recording.recorder import Recorder


class Dispatcher:
    """Has the rule of each operator applied, and notes what no rule needs to say itself."""

    def __init__(self, recorder: Recorder, rules: Callable[[Any], Rule]) -> None:
        """``rules`` gives the rule of an operator; ``recorder`` keeps the run."""
        self.recorder = recorder
        self._rules = rules
        self._known: dict[Any, tuple[Rule, str]] = {}
        self._calls: Counter[Any] = Counter()

    def operator(self, func: Any, arguments: Mapping[str, Any], result: Any) -> None:
        """Apply the rule of one operator."""
        recorder = self.recorder
        op = Op(func, arguments, tuple(tensors_in((result,))), tensors_in(arguments.values()))
        if func not in self._known:
            self._known[func] = self._rules(func), op.name
        rule, name = self._known[func]
        self._calls[func] += 1
        recorder.begin(name, op.inputs)
        call = OperatorCall(recorder, op, name)
        try:
            rule(call)
        except Exception as error:  # noqa: BLE001 - whatever a rule did not foresee
            # A rule that fails must not fail the user's network: freeze, and say so.
            text = f"the rule for {name} failed ({type(error).__name__}: {error})"
            note = f"{text}; please tell its author. Its channels are kept."
            recorder.findings.notes.append(note)
            call.freeze_all(text)
        if not call.grid_followed:
            for tensor in op.inputs:
                recorder.mix(tensor)
        if recorder.measuring and call.recounted is not None:
            outputs = tuple(map(recorder.dims, op.outputs))
            number = self._calls[func] - 1
            recount = Recount(str(func), number, call.recounted, outputs)
            recorder.findings.recounts.append(recount)
        recorder.values.operator(recorder.module_name, op)
        if recorder.streams.selecting:
            recorder.streams.note(map(recorder.dims, op.inputs), map(recorder.dims, op.outputs))
        recorder.operator = ""
