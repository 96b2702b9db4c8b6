"""What may be traded for speed or memory: switches that change the pictures, all off by default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import InvalidSettings

WEIGHTS = ("int8", "int4", "fp8")
GRAMMAR = (
    "Give switches separated by commas: weights=int8, int4 or fp8; guidance=0-0.6, the part of the "
    "steps that is guided; step_cache=0.08, how little must change for a step to be skipped."
)


@dataclass(frozen=True)
class Lossy:
    """Name the switches that are on.

    weights: number format of the layers' weights, "" leaves them as they are. guidance: the first
    and the last part of the steps, 0 to 1, that are guided; the others cost one pass instead of
    two. step_cache: where the decoder's first layer moves by less than this share from one step to
    the next, the other layers repeat what they added; 0 never does.
    """

    weights: str = ""
    guidance: tuple[float, float] = (0.0, 1.0)
    step_cache: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lossy:
        """Read `weights=int8,guidance=0-0.6,step_cache=0.08`; raise InvalidSettings."""
        values: dict[str, object] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (part.strip() for part in item.partition("="))
            if name not in {field.name for field in fields(cls)}:
                raise InvalidSettings(f"There is no lossy switch {name!r}.", hint=GRAMMAR)
            if name in values:
                raise InvalidSettings(f"The lossy switch {name!r} is given twice.", hint=GRAMMAR)
            values[name] = _READ[name](value)
        return cls(**values)  # type: ignore[arg-type]

    def check_memory(self, mode: str) -> None:
        """Raise InvalidSettings where a memory mode excludes a switch."""
        if self.weights and mode == "layered":
            raise InvalidSettings(
                f"memory='layered' and lossy='weights={self.weights}' exclude each other.",
                hint="Packed weights fit where the model would not: use memory='auto'.",
            )

    def __str__(self) -> str:
        """Write the switches that are on, as `parse` reads them."""
        parts = [f"weights={self.weights}"] if self.weights else []
        if self.guidance != (0.0, 1.0):
            parts.append(f"guidance={self.guidance[0]:g}-{self.guidance[1]:g}")
        if self.step_cache:
            parts.append(f"step_cache={self.step_cache:g}")
        return ",".join(parts)

    def guides(self, step: int, num_steps: int) -> bool:
        """Whether step 0 .. num_steps - 1 is guided: its middle lies in the guided part."""
        return self.guidance[0] <= (step + 0.5) / num_steps <= self.guidance[1]


def _weights(value: str) -> str:
    if value not in WEIGHTS:
        raise InvalidSettings(
            f"The lossy switch weights is {value!r}; it must be one of {', '.join(WEIGHTS)}."
        )
    return value


def _guidance(value: str) -> tuple[float, float]:
    first, _, last = value.partition("-")
    part = _number("guidance", first), _number("guidance", last)
    if not 0 <= part[0] <= part[1] <= 1:
        raise InvalidSettings(
            f"The lossy switch guidance is {value!r}; it must be such as 0-0.6, within 0 and 1."
        )
    return part


def _step_cache(value: str) -> float:
    threshold = _number("step_cache", value)
    if not 0 <= threshold <= 1:
        raise InvalidSettings(f"The lossy switch step_cache is {value!r}; it must be 0 to 1.")
    return threshold


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidSettings(
            f"The lossy switch {name} needs numbers, not {value!r}.", hint=GRAMMAR
        ) from None


_READ = {"weights": _weights, "guidance": _guidance, "step_cache": _step_cache}

EXACT = Lossy()
