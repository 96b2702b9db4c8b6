"""Measure how fast prior tokens are written: one request, and many of mixed sizes at once.

    python bench/prior.py --threads 1 --clock cpu

Upstream is one request of 512 px through diffusers' generate_prior_tokens(), in the faster of the
number formats tried: it takes requests of different sizes one after the other. Ours are in the loop
as the engine has it, and enter as there is room. Ours and upstream alternate; medians; a ratio
above 1 is in our favour. "without guesses" is the same loop with a window of one token; by these
rows the loop always guesses on a CPU, whatever the number of requests.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import infer
import record
from sides import prior_format

PROMPTS = (
    infer.PROMPT,
    "A poster with the headline 'OPEN'",
    "A sign that says 'Fresh Bread'",
    "A quiet page with nothing written on it",
)
SIZES = ((512, 512), (768, 512), (1024, 1024), (512, 1024))
CASES = {  # name -> requests at once, most tokens of a row in one pass, mixed sizes
    "one request of 512 px, without guesses": (1, 1, False),
    "one request of 512 px, 4 tokens a pass at most": (1, 4, False),
    "one request of 512 px": (1, None, False),
    "4 requests of 512 px, without guesses": (4, 1, False),
    "4 requests of 512 px, 4 tokens a pass at most": (4, 4, False),
    "4 requests of 512 px": (4, None, False),
    "16 requests of 512 to 1024 px, without guesses": (16, 1, True),
    "16 requests of 512 to 1024 px, 4 tokens a pass at most": (16, 4, True),
    "16 requests of 512 to 1024 px": (16, None, True),
}


def make(asked: Sequence[tuple[int, int, str]], seed: int) -> list[Any]:
    """Return pictures of requests (width, height, prompt) with seeds of their own."""
    from glmimage.picture import make_pictures
    from glmimage.types import GenerationRequest

    return [
        picture
        for number, (width, height, prompt) in enumerate(asked)
        for picture in make_pictures(
            str(number), GenerationRequest(prompt, width, height, seed=100 * seed + number)
        )
    ]


def write(stage: Any, pictures: list[Any], window: int | None, num_slots: int | None = None) -> int:
    """Write priors as the engine does, entering as there is room; return the rows' passes."""
    from glmimage.pipeline import encode_prompts
    from glmimage.token_loop import NUM_SLOTS, WINDOW, TokenLoop

    encode_prompts(stage, pictures)
    loop = TokenLoop(stage, num_slots or NUM_SLOTS, window=window or WINDOW)
    passes, waiting = 0, list(pictures)
    while waiting or loop.rows:
        while waiting and loop.room(waiting[0].encoded.max_length):
            loop.enter([waiting.pop(0)])
        passes += len(loop.rows)
        loop.step()
    return passes


class Ours:
    def __init__(self, options: argparse.Namespace) -> None:
        from glmimage.stages import Stages

        self.stages = Stages.load(options.model, options.device, None, "staged")
        self.device = self.stages.device
        self.dtype = prior_format(self.stages)

    def run(
        self, num_requests: int, window: int | None, mixed: bool, seed: int
    ) -> dict[str, float]:
        """Return tokens a second, and tokens a row and pass."""
        asked = [
            (*(SIZES[n % 4] if mixed else SIZES[0]), PROMPTS[n // 4 % 4 if mixed else seed % 4])
            for n in range(num_requests)
        ]
        pictures = make(asked, seed)
        stage, clock = self.stages.prior(), infer.time.perf_counter
        started = clock()
        passes = write(stage, pictures, window)
        written = sum(picture.encoded.num_tokens for picture in pictures)
        return {
            "tokens_per_s": written / (clock() - started),
            "tokens_per_pass": (written - num_requests) / passes,
        }


class Upstream(infer.Upstream):
    def tokens(self, seed: int) -> dict[str, float]:
        import torch

        clock = infer.time.perf_counter
        torch.manual_seed(seed)
        started = clock()
        ids, *_ = self.pipe.generate_prior_tokens(prompt=PROMPTS[seed % 4], height=512, width=512)
        # the small grid is written as well, and the end marker
        return {"tokens_per_s": (ids.numel() / 4 + 257) / (clock() - started), "tokens_per_pass": 1}


def main() -> None:
    options = parse()
    if options.clock == "cpu":
        infer.time.perf_counter = infer.time.process_time
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    dtypes = options.upstream_dtypes.split(",")
    ours, upstream = Ours(options), {dtype: Upstream(options, dtype) for dtype in dtypes}
    runs: dict[str, list[Any]] = {name: [] for name in (*CASES, *dtypes)}
    for seed in range(options.repeats + 1):  # the first round warms up
        for dtype in dtypes:
            runs[dtype].append(upstream[dtype].tokens(seed))
        for name, case in CASES.items():
            runs[name].append(ours.run(*case, seed))

    def median(side: str, metric: str) -> float:
        return statistics.median(run[metric] for run in runs[side][1:])

    for dtype in dtypes:
        print(f"diffusers in {dtype}: {median(dtype, 'tokens_per_s'):.2f}", file=sys.stderr)
    fastest = max(dtypes, key=lambda dtype: median(dtype, "tokens_per_s"))
    rows = []
    for name in CASES:
        for metric in ("tokens_per_s", "tokens_per_pass"):
            one, other = median(name, metric), median(fastest, metric)
            rows.append(record.row(name, metric, one, other, digits=3))
            print(f"{name:55} {metric:16} {one:9.2f} {other:9.2f}", file=sys.stderr)
    options.guidance, options.warmup = None, 1
    card = infer.card(options, {"ours": ours.dtype, "upstream": fastest})
    infer.write_result({"card": card, "rows": rows}, options.name)


def parse() -> SimpleNamespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, a folder, or a Hugging Face id")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--device")
    parser.add_argument(
        "--upstream-dtypes", default="float32,bfloat16", help="the fastest of them is the measure"
    )
    parser.add_argument("--name", default="prior", help="end of the result file's name")
    return parser.parse_args(namespace=SimpleNamespace())


if __name__ == "__main__":
    main()
