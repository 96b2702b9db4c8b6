"""Write one_line.json: 40 prompts with one quoted line of held-out dictionary words, phrased unlike the training data.

Run once; the file is what is kept, so that every checkpoint answers the same prompts.
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from designs import load_words

PHRASINGS = (
    "A conference poster with the headline '{t}' in bold sans-serif",
    "A sign that says '{t}'",
    'A simple poster that says "{t}" on a {c} background',
    "Movie poster with the title '{t}', {c} background",
    "A book cover called '{t}', serif letters, {c}",
    'Shop window sign reading "{t}" in white on {c}',
    "A {c} birthday card that reads '{t}'",
    "An advertisement with '{t}' in large type at the top, {c} backdrop",
    "Street banner: '{t}', {c}",
    "A presentation slide titled '{t}' on {c}",
    "I would like a flyer with the words '{t}' in the middle, plain {c} background",
    "Please draw a label with the word(s) '{t}' in monospace",
    "a wooden sign board with “{t}” painted on it, {c}",
    "Concert ticket, big text '{t}', {c} paper",
    "Minimal typographic print of '{t}' in serif, {c}",
    "Neon sign that spells '{t}', dark background",
    "A coffee package with the brand name '{t}', {c}",
    "Social media graphic with the headline '{t}' centered on {c}",
    'A warning notice: "{t}" at the bottom of a {c} page',
    "Postcard with greetings '{t}' on a {c} to white gradient",
)
COLORS = ("red", "navy", "green", "orange", "teal", "purple", "black", "white", "yellow", "blue", "pink", "brown")


def main() -> None:
    """Write the prompts beside this file."""
    rng = random.Random(2026)
    _, held_out = load_words()
    prompts = []
    for i in range(40):
        words: list[str] = []
        for _ in range(rng.choice([1, 2, 2, 3])):
            word = rng.choice(held_out)
            word = rng.choice([word, word.title(), word.upper()])
            if len(" ".join([*words, word])) <= 14 and len(word) >= 3:
                words.append(word)
        text = " ".join(words) or "Harbor"
        phrasing = PHRASINGS[i % len(PHRASINGS)]
        prompts.append({"prompt": phrasing.format(t=text, c=rng.choice(COLORS)), "texts": [text], "seed": 1000 + i})
    path = Path(__file__).parent / "one_line.json"
    path.write_text(json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
