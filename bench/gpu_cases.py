"""What bench/gpu.py measures, in which order, and what each of it is likely to take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import infer
from ceiling import denoise_flop

SIZES = {"full": (512, 1024, 2048), "middle": (512, 544, 576), "tiny": (512, 544, 576)}
"""Small, usual and large pictures, px; 512 are the least that may be asked for."""
ROWS = 8
"""Pictures whose tokens share a pass of the prior."""
TOKENS = 32
"""Of a prior that is written in part: enough for the time of one."""
FEW_STEPS = 5
MEMORY_GB = (80, 24, 48, 16)
"""Cards whose memory is kept to; a GB is 10**9 bytes, the least that is sold under that name."""
CONTEXT_BYTES = 600_000_000
"""Of a card, what CUDA itself takes."""
DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class Case:
    """Name one case: `key` on the command line, `name` in a row.

    tokens: of the prior, how many are written; None writes all. Otherwise the picture is painted
    from an empty prior, which takes as long. lossy: as `Lossy.parse` reads it, or words that say
    what else is given up. memory_gb: keep to a card of so much. plain: without compile and graphs.
    guesses: of the prior, a pass that reads several tokens. must: what is to be reached is said
    of it.
    """

    key: str
    size: int
    steps: int
    requests: int = 1
    references: int = 0
    tokens: int | None = None
    lossy: str = ""
    memory_gb: int = 0
    plain: bool = False
    guesses: bool = False
    must: bool = False

    def name(self, mode: str = "") -> str:
        """Return the case's name in a row; mode: of memory."""
        name = infer.case_name(self.given)
        if self.tokens:
            name += f", {self.tokens} tokens"
        if self.lossy:
            name += f", lossy: {self.lossy}"
        if self.memory_gb:
            name += f", in {self.memory_gb} GB ({mode})"
        return name + ", without compile and graphs" * self.plain + ", guesses" * self.guesses

    @property
    def given(self) -> dict[str, Any]:
        """Return the case as infer.py, sides.py and ceiling.py have it."""
        case = {"width": self.size, "height": self.size, "steps": self.steps, "guidance": 1.5}
        case |= {"references": self.references, "requests": self.requests}
        return case | {"seed": 0, "upstream": 1}

    @property
    def like(self) -> tuple[int, int] | None:
        """Return what diffusers has to do to be compared with; None where nothing is."""
        changed = self.lossy or self.memory_gb or self.plain or self.guesses
        return None if changed else (self.size, self.references)

    @property
    def is_part(self) -> bool:
        """Whether a part of the prior is written, or none of it."""
        return self.tokens is not None

    @property
    def num_tokens(self) -> int:
        """Count the tokens of a whole prior; with references there is no small grid."""
        return (self.size // 32) ** 2 + 256 * (not self.references)

    @property
    def switches(self) -> str:
        """Return the lossy switches as the engine reads them."""
        return self.lossy if "=" in self.lossy else ""

    @property
    def weights(self) -> str:
        """Return the number format of the weights where it is another one."""
        return self.lossy.removeprefix("weights=") if self.lossy.startswith("weights=") else ""


def list_cases(scale: str, steps: int, requests: int) -> list[Case]:
    """Return the cases, what matters most first; DIFFUSERS comes behind the first one.

    Those that need the networks placed or packed in the same way stand together as far as that
    allows, and long ones last: the time may be over before.
    """
    small, usual, large = SIZES[scale]
    part: dict[str, Any] = {"steps": min(FEW_STEPS, steps), "tokens": TOKENS}
    first, *others = (Case(f"{gb}gb", usual, **part, memory_gb=gb) for gb in MEMORY_GB)
    fewer = max(1, 2 * steps // 5)
    return [
        Case("one", usual, steps, must=True),
        Case("many", usual, steps, requests=requests, must=True),
        Case("small", small, steps),
        Case("edit", usual, steps, references=1),
        Case("guesses", usual, **part, guesses=True),
        Case("large-part", large, **part),
        first,
        Case("fewer-steps", usual, fewer, tokens=0, lossy="fewer steps"),
        Case("step-cache", usual, steps, tokens=0, lossy="step_cache=0.08"),
        *others,
        *(Case(form, usual, **part, lossy=f"weights={form}") for form in ("int8", "fp8")),
        Case("plain", usual, **part, plain=True),
        Case("four", usual, steps, requests=4),
        Case("large", large, steps),
    ]


@dataclass
class Pace:
    """Say how fast a side is, by what was measured at `case`.

    host_bytes_per_s: from the host's memory to the device. start_s: what it took lately to build
    both stages and to warm them up, for a part (True) or for whole pictures (False).
    """

    case: Case
    token_s: float
    step_s: float
    decode_s: float
    host_bytes_per_s: float = 1e10
    start_s: dict[bool, float] = field(default_factory=dict)

    def starting_s(self, case: Case) -> float:
        """Estimate what it takes to place the networks as another case wants them."""
        return self.start_s.get(case.is_part, max(self.start_s.values(), default=0.0))

    def least_s(self, case: Case, dit: Any) -> float:
        """Estimate what makes a case worth while: of many pictures, the first two."""
        return self.expected_s(case, dit, min(2, case.requests))

    def expected_s(
        self, case: Case, dit: Any, pictures: int = 0, streamed: tuple[int, int] = (0, 0)
    ) -> float:
        """Estimate a case, or the first of its pictures; dit: what has the decoder's config.

        streamed: bytes that a pass of the prior, and one of the decoder, brings from the host.
        """
        tokens = case.num_tokens if case.tokens is None else case.tokens
        rounds = -(-case.requests // ROWS)
        one, known = (denoise_flop(dit, of.given) / of.steps for of in (case, self.case))
        painting = case.steps * self.step_s * one / known
        painting += self.decode_s * (case.size / self.case.size) ** 2
        brought = tokens * streamed[0] + 2 * case.steps * streamed[1]
        taken = rounds * tokens * self.token_s + (pictures or case.requests) * painting
        return taken + brought / self.host_bytes_per_s
