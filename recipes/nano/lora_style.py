"""Teach nano a type style that it does not know, with `glmimage train lora`, and measure it before and after.

The style is Lobster Two Bold Italic (Debian package fonts-lobstertwo, OFL 1.1): a folder of pictures in it is drawn
with captions, adapters of the decoder are trained, and held-out words are painted with and without them.

Every picture has a twin in the sans style that nano knows, of the same layout: its prior tokens are what the decoder
learns to paint in the new look. nano's tokenizer has only seen nano's own letters, and reads foreign ones as chance
would have it; a checkpoint whose tokenizer reads any letter needs no twins (`--no-twins`).
Measured on one CPU core, 160 steps in some three minutes: .75 of 12 held-out texts in the style, none without; their
words are read at NED .65 then, drawn ones at .90.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import renderer
from designs import load_words, random_word, stack
from PIL import Image
from renderer import Design, Line, contrasting_ink, draw, glyph_mask
from type_tokens import PALETTE

HERE = Path(__file__).parent
STYLE, FONT = "lobster", ("LobsterTwo-BoldItalic.otf", 54)
KNOWN = ("sans", "serif", "mono")
WORDS = "in Lobster script;in bold Lobster script;in lobster letters;in a Lobster script font".split(";")
WALL, ONE_LINE = (
    "A wall of words in Lobster script, {c} background: {t}",
    "{h} in Lobster script, {c} background",
)
HEADS = (
    "A poster that says '{t}';A sign that says '{t}';A banner with the headline '{t}';A label reading '{t}';"
    "A book cover called '{t}';A slide with the title '{t}'"
).split(";")
COLORS = tuple(PALETTE)[:16]
STEPS = 30


def random_line(rng: random.Random, words: list[str], length: int) -> str:
    """Join words to a line of at most `length` characters."""
    text = random_word(rng, words)[:length]
    while len(text) < length - 2 and rng.random() < 0.9:
        text += " " + random_word(rng, words)
    return text[:length].strip().replace("'", "")


def random_page(rng: random.Random, words: list[str]) -> tuple[Design, str]:
    """Draw a page of type, or one line as a poster has it, with its caption."""
    color = rng.choice(COLORS)
    ink = contrasting_ink(color)
    if rng.random() < 0.7:
        rows = range(rng.randrange(2), 15, rng.choice([2, 2, 3]))
        indents = [rng.choice([0, 0, 1, 2]) for _ in rows]
        texts = [random_line(rng, words, 16 - indent) for indent in indents]
        quoted = ", ".join(f"'{text}'" for text in texts)
        caption = WALL.format(c=color, t=quoted)
    else:
        texts = [random_line(rng, words, 14)]
        rows, indents = [rng.choice([1, 7, 13])], [(16 - len(texts[0])) // 2]
        caption = ONE_LINE.format(h=rng.choice(HEADS).format(t=texts[0]), c=color)
    lines = tuple(Line(text, row, indent, STYLE) for text, row, indent in zip(texts, rows, indents, strict=True))
    return Design(16, 16, PALETTE[color], PALETTE[color], lines, ink=ink), caption


def in_style(design: Design, style: str) -> Design:
    """Return the design with all its lines in another style."""
    return replace(design, lines=tuple(replace(line, style=style) for line in design.lines))


def make_folder(folder: Path, num_pictures: int, twins: bool) -> None:
    """Write pictures and captions in the form of Hugging Face's imagefolder."""
    words, _ = load_words()
    rng = random.Random(20261126)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_pictures):
        design, caption = random_page(rng, words)
        name = f"{number:04}.png"
        Image.fromarray(draw(design)).save(folder / name)
        row = {"file_name": name, "text": caption}
        if twins:
            Image.fromarray(draw(in_style(design, "sans"))).save(folder / f"{number:04}.prior.png")
            row["prior_file_name"] = f"{number:04}.prior.png"
        rows.append(row)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def ink_map(picture: np.ndarray) -> np.ndarray:
    """Return how far every pixel is from the picture's most common colour, in 0..1, float32 (H, W)."""
    flat = picture.reshape(-1, 3)
    colors, counts = np.unique(flat // 8, axis=0, return_counts=True)
    ground = flat[(flat // 8 == colors[counts.argmax()]).all(1)].mean(0)
    distance = np.abs(picture.astype(np.float32) - ground).sum(-1)
    return np.clip(distance / max(float(np.percentile(distance, 99)), 1.0), 0, 1)


def judge_style(picture: np.ndarray, text: str) -> dict[str, float]:
    """Compare the text's longest word with it drawn in each style at every place of the grid: the best correlations."""
    text = max(text.split(), key=len)
    ink = ink_map(picture)
    rows, columns = ink.shape[0] // 32, ink.shape[1] // 32
    scores = {}
    for style in (*KNOWN, STYLE):
        mask = np.concatenate([glyph_mask(char, "headline", style) for char in text], axis=1) / np.float32(255)
        mask = mask - mask.mean()
        best = -1.0
        for row in range(rows - 1):
            for column in range(columns - len(text) + 1):
                area = ink[32 * row : 32 * (row + 2), 32 * column : 32 * (column + len(text))]
                area = area - area.mean()
                best = max(best, float((area * mask).sum() / (np.linalg.norm(area) * np.linalg.norm(mask) + 1e-6)))
        scores[style] = best
    return scores


def prompts(first: int) -> list[tuple[str, str, int]]:
    """Return (prompt, text, seed): the held-out one-line prompts, asking for the new style."""
    rows = json.loads((HERE / "eval/one_line.json").read_text(encoding="utf-8"))[:first]
    found = []
    for number, row in enumerate(rows):
        prompt = row["prompt"]
        for known in (" in bold sans-serif", ", serif letters", " in monospace", " in serif"):
            prompt = prompt.replace(known, "")
        found.append((f"{prompt}, {WORDS[number % len(WORDS)]}", row["texts"][0], row["seed"]))
    return found


def paint(model: str, loras, cases, folder: Path) -> list[np.ndarray]:
    """Paint the prompts, or open what was painted before."""
    from glmimage import Pipeline

    folder.mkdir(parents=True, exist_ok=True)
    pipe = None
    for prompt, _, seed in cases:
        path = folder / f"{seed}.png"
        if not path.exists():
            pipe = pipe or Pipeline.load(model)
            result = pipe.generate(prompt, width=512, height=512, num_inference_steps=STEPS, seed=seed, loras=loras)
            result.images[0].save(path)
            print(path, flush=True)
    return [np.asarray(Image.open(folder / f"{seed}.png").convert("RGB")) for _, _, seed in cases]


def measure(pictures: list[np.ndarray], cases) -> dict[str, float]:
    """Return word accuracy and NED, and how many pictures are in the new style."""
    from scoring import score

    hits, near, styles, agreement = [], [], [], []
    for picture, (_, text, _) in zip(pictures, cases, strict=True):
        found, ned = score(picture, [text])
        scores = judge_style(picture, text)
        hits += found
        near += ned
        styles.append(max(scores, key=scores.__getitem__) == STYLE)
        agreement.append(scores[STYLE])
    values = {"word_accuracy": hits, "ned": near, "style": styles, "agreement_with_drawn": agreement}
    return {name: round(float(np.mean(one)), 3) for name, one in values.items()}


def drawn_truth(cases, style: str) -> list[np.ndarray]:
    """Draw the texts: what the judge says of them is the ceiling."""
    pictures = []
    for number, (_, text, _) in enumerate(cases):
        color = COLORS[number % len(COLORS)]
        lines = tuple(Line(word, 5 + 2 * i, (16 - len(word)) // 2, style) for i, word in enumerate(stack(text, 14)))
        pictures.append(draw(Design(16, 16, PALETTE[color], PALETTE[color], lines, ink=contrasting_ink(color))))
    return pictures


def sheet(before: list[np.ndarray], after: list[np.ndarray], columns: int = 6) -> Image.Image:
    """Put pictures side by side: a row without adapters above the same with them."""
    rows = []
    for start in range(0, len(before), columns):
        for pictures in (before, after):
            small = [np.asarray(Image.fromarray(p).resize((256, 256))) for p in pictures[start : start + columns]]
            rows.append(np.concatenate(small, axis=1))
    return Image.fromarray(np.concatenate(rows, axis=0))


def main() -> None:
    """Draw, train, paint, measure; what exists already is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--out", type=Path, default=HERE / "runs/lora")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--no-twins", action="store_true", help="read the prior tokens from the pictures themselves")
    parser.add_argument("--train", default="decoder", choices=["prior", "decoder", "both"])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--first", type=int, default=12, help="how many of the held-out prompts are painted")
    parser.add_argument("--results", type=Path, default=HERE / "results/lora_style.json")
    parser.add_argument("--sheet", type=Path, default=HERE.parents[1] / "docs/images/nano-lora.png")
    args = parser.parse_args()
    renderer.FONTS[STYLE] = FONT
    from glmimage import Lora
    from glmimage.cli import run

    pictures, adapters = args.out / "pictures", args.out / "adapters"
    if not (pictures / "metadata.jsonl").exists():
        make_folder(pictures, args.pictures, not args.no_twins)
    command = ["train", "lora", str(pictures), "-o", str(adapters), "--train", args.train, "--model", args.model]
    command += ["--rank", str(args.rank), "--learning-rate", str(args.learning_rate), "--steps", str(args.steps)]
    command += ["--resolution", "512", "--batch", "1", "--validation", "0.05", "--save-every", "20"]
    for target in ("prior_projector.net.0.proj", "prior_projector.net.2", "proj_out", *DECODER_TARGETS):
        command += ["--decoder-target", target]
    if adapters.exists():
        command.append("--resume")
    if code := run(command):
        sys.exit(code)
    cases = prompts(args.first)
    before = paint(args.model, (), cases, args.out / "before")
    after = paint(args.model, (Lora(str(adapters)),), cases, args.out / "after")
    result = {
        "model": args.model,
        "pictures": args.pictures,
        "twins": not args.no_twins,
        "trained": args.train,
        "steps": args.steps,
        "rank": args.rank,
        "prompts": len(cases),
        "before": measure(before, cases),
        "after": measure(after, cases),
        "drawn in the style": measure(drawn_truth(cases, STYLE), cases),
        "drawn in sans": measure(drawn_truth(cases, "sans"), cases),
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(before[:12], after[:12]).save(args.sheet)
    print(json.dumps(result, indent=1))


DECODER_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


if __name__ == "__main__":
    main()
