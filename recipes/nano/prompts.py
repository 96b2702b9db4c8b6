"""The prompts people would write for a content, deterministic by seed."""

import random
import re
from collections.abc import Callable

from designs import Content

THINGS = (
    "poster sign banner card label flyer cover slide ticket billboard badge notice placard book_cover shop_sign "
    "street_sign conference_poster movie_poster event_poster business_card greeting_card product_label title_slide "
    "web_banner social_media_post album_cover menu invitation advertisement logo headline_graphic store_front "
    "road_sign packaging_label magazine_cover concert_poster picture graphic wall_sign door_sign postcard "
    "instagram_story thank_you_card sale_banner coupon price_tag sticker name_tag certificate brochure_cover "
    "presentation_slide section_slide diagram chart infographic app_screen landing_page mockup t-shirt_print "
    "coffee_bag wine_label newsletter_header podcast_cover youtube_thumbnail quote_card festival_poster handout "
).split()
ADJECTIVES = (
    "minimalist modern clean simple bold elegant retro vintage bright colorful dark professional playful flat "
    "beautiful striking stylish friendly high-contrast eye-catching festive corporate warm geometric classic "
    "hand-made typographic cheerful serious luxurious rustic crisp neat plain swiss-style"
).split()
TOPICS = (
    "a coffee shop;a conference;a summer sale;a school;a museum;a bakery;a music festival;a startup;a garage;a gym;"
    "a birthday party;a book fair;a hotel;a restaurant;a bike store;an airport;a library;a science fair;a charity;"
    "a farmers market;a film night;an online course;a winter event;a flower shop;the office;the team;the city;"
    "our new product;a wedding;a sports club;a yoga studio;a tech meetup;a theatre;a workshop for children;a pet shop"
).split(";")
DETAILS = (
    "high quality;lots of empty space;clean layout;sharp letters;flat design;vector style;balanced composition;"
    "print-ready;professional look;simple shapes;crisp typography;no photo;plain and easy to read;4k;trending design;"
    "well aligned;generous margins;studio quality;in the style of swiss design;subtle and calm;for social media;"
    "suitable for printing;very legible;nothing else in the picture;minimal;soft light;paper texture"
).split(";")
# with words that mean nothing to the picture, of which there is no end
OTHER_TOPICS = "a {w};a {w} {w};the {w};our {w};{w} and {w};a small {w};my {w};a {w} in {w};{w};a {w} for {w}".split(
    ";"
)
OTHER_DETAILS = (
    "without {w};a drawing of a {w};{w} look;with {w} {w};hints of {w};{w} style;like a {w};very {w};{w} and {w};"
    "a {w} in the background;no {w} or {w};some {w};drawn like a {w};space left for a {w};{w};{w} {w};a {w} mood;"
    "in the style of a {w};a bit of {w};{w}, {w}, {w};for a {w};never {w};{w} feeling;as if for a {w};{w} texture;"
    "made for {w};keep it {w};it should look {w};think of {w};{w} edges"
).split(";")
LEADS = (
    ";;;;Design ;Create ;Make ;Draw ;Please make ;Generate ;I need ;I want ;Show ;I would like ;Give me ;"
    "Can you make ;Please design ;We need ;An image of ;A picture of ;A photo of "
).split(";")
SAYS = (
    "that says;with the headline;reading;with the text;with the words;saying;titled;with the title;that reads;"
    "showing the text;with the slogan;with the message;with the heading;labelled;with big letters;with the word;"
    "with the name;displaying;with a headline that says;bearing the words;containing the text;which says;called;"
    "announcing;promoting;that spells;featuring the text;featuring;, headline;, title;, text;:; -;with the tagline;"
    "whose headline is;where it says;and on it"
).split(";")
SECOND_SAYS = (
    "with the subtitle;and the subtitle;subtitle;and smaller text;and below it;with small text;and a tagline;"
    "tagline;with a smaller line;and underneath;below that;and under it;subtitle:;second line;and the date;"
    "with the caption;small text;, followed by;and;then;and a subheading;with the details;plus;and also;second"
    ";with the note;and the line;with the date;and the price;and the place;and the name;, then;with the label"
).split(";")
FOOTER_SAYS = (
    "and a footer;footer;and at the bottom;with the footer;small print;at the very bottom;footer:;"
    "and along the bottom edge;bottom line;with fine print;and as a footer;with the footer line"
).split(";")
THIRD_SAYS = (
    "and;then;and finally;plus;and also;, then;and a call to action;, and;third line;with the last line;".split(";")
)
# where a prompt is made of sentences: {q} is the text in its quotes, {p} its place
FIRST_SENTENCES = (
    "it says {q};it reads {q};it should say {q};the text reads {q};the headline is {q};the title is {q};headline: {q};"
    "title: {q};large: {q};in big letters: {q};text: {q};the text says {q};written on it: {q};headline {q};title {q};"
    "the words are {q};main line {q};it has the words {q}"
).split(";")
FIRST_SENTENCES_WITH_PLACE = (
    "{p} it says {q};{p}: {q};{p} {q};{q} {p};the headline {q} {p};it says {q} {p};{p} the words {q};{q}, {p};"
    "the title {q} {p};it should say {q} {p};headline {q} {p};{p} comes {q};{p} in large type {q};the name {q} {p};"
    "headline {p}: {q};large {p}: {q};{p}, large, {q};the text {q} is {p};{q} stands {p};{q} is written {p};"
    "the words {q} {p}"
).split(";")
NEXT_SENTENCES = (
    "below it {q};smaller: {q};subtitle: {q};below that, smaller, {q};underneath: {q};then {q};second line: {q};{q};"
    "and {q};under it the words {q};in small letters below: {q};next line {q};subtitle {q};smaller, below that, {q}"
).split(";")
FOOTER_SENTENCES = (
    "footer: {q};small print: {q};at the bottom {q};footer {q};at the foot {q};the footer reads {q}".split(";")
)
LAST_SENTENCES = (
    "last line: {q};finally {q};and {q};{q};then {q};last, {q};in the last line {q};third line: {q};and then {q}"
).split(";")
NEXT_SENTENCES_WITH_PLACE = (
    "{p} {q};{p}: {q};{q} {p};and {p} {q};{p} it says {q};{p}, smaller, {q};the line {q} {p};{p} the words {q};"
    "{q}, {p};and {q} {p};small {p} {q};{p} the note {q};the subtitle {q} {p};{p} in small type {q};with {q} {p};"
    "subtitle {p}: {q};{p} you read {q};the date {q} {p};the label {q} {p};the number {q} {p};{q} is {p}"
).split(";")
STYLE_WORDS = {
    "sans": "bold sans-serif;sans-serif;sans;clean sans-serif letters;a bold sans-serif font;modern type;bold letters;"
    "bold type;a heavy sans;Helvetica;a grotesque typeface",
    "serif": "bold serif;serif;serif letters;a serif font;classic serif type;an elegant serif;bold serif letters;"
    "serif type;a bold serif font;book type",
    "mono": "monospace;mono;typewriter letters;a monospaced font;code-like type;fixed-width type;bold monospace;"
    "a typewriter font;terminal type;bold mono",
    "sans regular": "regular sans-serif;light sans-serif;a thin sans-serif font;a light sans;regular weight sans;"
    "thin letters;light letters;regular sans letters",
    "serif regular": "regular serif;light serif;a thin serif font;a light serif;regular weight serif;"
    "thin serif letters;an ordinary book serif",
    "mono regular": "regular monospace;light monospace;thin mono;a light monospaced font;regular weight mono;"
    "light typewriter letters",
}
PLACE_WORDS = {
    "top": "at the top;on top;near the top;in the upper part;top;at the upper edge;in the top third;up high;"
    "along the top;at the very top;in the upper half;toward the top;above;placed at the top;in the top area;"
    "top of the page;right at the top;in the top part;up top;in the upper third",
    "middle": "in the middle;in the center;in the centre;middle;halfway down;vertically centered;right in the middle;"
    "in the exact middle;at the center of the picture;in the central part;placed in the middle;"
    "across the middle;middle of the page;across the centre;in the middle of it;dead center",
    "bottom": "at the bottom;near the bottom;in the lower part;bottom;at the foot;in the bottom third;low down;"
    "along the bottom;at the very bottom;in the lower half;toward the bottom;at the lower edge;"
    "placed at the bottom;right at the bottom;by the bottom edge;in the bottom part;down at the bottom;bottom edge;"
    "in the lower third",
}
ALIGN_WORDS = {
    "left": "aligned left;left-aligned;on the left;flush left;left aligned;to the left;on the left side;"
    "left-aligned text;aligned to the left;text on the left;everything flush left;left-justified",
    "center": "centered;centred;center-aligned;centered text;horizontally centered;all centered;centred text;"
    "text in the center;aligned to the center",
    "right": "aligned right;right-aligned;on the right;flush right;right aligned;to the right;on the right side;"
    "right-aligned text;aligned to the right;text on the right;everything flush right;right-justified",
}
SIZE_WORDS = {
    "large": "large letters;huge type;very large text;in giant letters;big type;oversized letters;large type;"
    "huge letters",
    "small": "small letters;in small type;small text;modest size;discreet type;small type;little letters",
}
TREATMENT_WORDS = {
    "invert": "invert the colours;invert the colors;negative;swap light and dark;colour-inverted;as a negative;"
    "invert this picture;turn it into a negative;show it as a negative;reverse the colours;inverted colors;"
    "invert it;exchange dark and light;a photographic negative of it;flip the colours",
    "sepia": "make it sepia;sepia tone;apply a sepia style;old sepia photograph;in sepia;a sepia version;"
    "tone it in sepia;use a sepia filter;like an old photograph in sepia",
    "blueprint": "turn it into a blueprint;blueprint style;as a blueprint;apply a blueprint style;like a blueprint;"
    "a blueprint of this;redraw it as an architect's blueprint;show it as a blueprint",
    "grey": "black and white;make it black and white;remove the colour;in greyscale;desaturate it;in grayscale;"
    "remove all colours;without colour;turn it black and white;a monochrome version",
    "darker": "make it darker;darken the picture;darker;at night;less light;dim it;a darker version",
    "lighter": "make it brighter;brighten it;lighter;more light;a paler version;lighten the picture;fade it",
}
COLOR_WORDS = {
    "gray": "gray;grey;mid-gray",
    "charcoal": "charcoal;dark gray;dark grey;anthracite",
    "navy": "navy;navy blue;dark blue;midnight blue",
    "beige": "beige;cream;ivory;tan;sand-coloured",
    "red": "red;red;red;crimson;bright red;scarlet",
    "yellow": "yellow;yellow;bright yellow;sunny yellow;lemon yellow",
    "green": "green;green;green;grass green;emerald green",
    "cyan": "cyan;turquoise;turquoise;aqua",
    "purple": "purple;purple;violet;dark purple",
    "pink": "pink;pink;rose;light pink",
    "blue": "blue;blue;blue;royal blue;bright blue;cobalt blue",
    "black": "black;black;pure black;deep black",
    "white": "white;white;plain white;pure white",
    "orange": "orange;orange;bright orange;amber",
    "teal": "teal;dark cyan;petrol",
    "brown": "brown;brown;chocolate;wooden brown",
    "maroon": "maroon;burgundy;dark red;wine red",
    "coral": "coral;salmon;coral red",
    "gold": "gold;golden;mustard;ochre",
    "lime": "lime;lime green;bright green;neon green",
    "dark green": "dark green;forest green;bottle green;deep green",
    "olive": "olive;olive green;khaki green",
    "mint": "mint;mint green;pale mint;pale green",
    "sky blue": "sky blue;light blue;pale blue;baby blue",
    "lavender": "lavender;lilac;light purple;pale violet",
    "magenta": "magenta;hot pink;fuchsia;bright pink",
    "silver": "silver;light gray;light grey;pale gray",
}
SHAPE_WORDS = {
    "circle": "a {c} circle;a {c} dot;a {c} sun;with a {c} circle;a round {c} shape;a {c} moon;"
    "{c} circle;one big {c} circle;{c} moon",
    "ring": "a {c} ring;a {c} hoop;with a {c} ring;a {c} outlined circle",
    "frame": "a {c} frame;a {c} border;with a {c} border;with a {c} frame;framed in {c};a thick {c} border;"
    "a fine {c} frame;{c} border;{c} border all around;a {c} frame around everything;with a narrow {c} border;"
    "a {c} line around the edge;an ornamental {c} border;{c} frame;a thin {c} frame;{c} frame around the text;"
    "surrounded by a {c} frame;with a thin {c} border",
    "stripe": "a {c} stripe;a {c} band;with a {c} stripe;a horizontal {c} bar;a {c} line across",
    "box": "a {c} box;a {c} square;with a {c} box;a {c} block",
    "star": "a {c} star;with a {c} star;a five-pointed {c} star;one {c} star;{c} star",
    "arrow": "a {c} arrow;with a {c} arrow;an arrow in {c};a {c} arrow pointing right;{c} arrow",
    "triangle": "a {c} triangle;with a {c} triangle;a {c} pyramid;a {c} mountain",
    "badge": "a {c} badge;with a {c} badge;a {c} seal;a round {c} badge",
}
PANEL_WORDS = (
    "in a {c} box;on a {c} label;inside a {c} box;on a {c} panel;in a {c} rectangle;set in a {c} box;on a {c} banner"
).split(";")
INK_WORDS = (
    "{c} text;{c} letters;{c} type;text in {c};letters in {c};{c} lettering;the text is {c};{c} headline;in {c};"
    "{c} font;{c} words;{c} writing;the words in {c};the lettering in {c};{c} typography;{c} capital letters;"
    "the type is {c};letters coloured {c};{c} lettering only"
).split(";")
BOLD_INK_WORDS = (
    "{c} bold text;bold {c} letters;{c} bold letters;bold {c} text;heavy {c} type;bold {c} lettering".split(";")
)
SOLID_WORDS = (
    "{c} background;on {c};on a {c} background;background {c};{c} backdrop;plain {c} background;on plain {c};"
    "solid {c} background;background in {c};{c} paper;over {c};the background is {c};{c};{c};all in {c};{c} page;"
    "on a {c} page;a {c} card;on a {c} card;{c} all over;a {c} sheet"
).split(";")
SOLID_AND_INK_WORDS = (
    "{c} with {i} letters;{c} with {i} lettering;{i} on {c};{c} with {i} type;{c} and {i};{c}, type in {i};"
    "{c}, {i} letters;{i} letters on {c};{c} with {i} text;{c} background with {i} text;"
    "{c} background with {i} letters;{i} text on a {c} background;a {c} background with {i} type;"
    "{i} lettering over a {c} background"
).split(";")
GRADIENT_WORDS = (
    "gradient from {c} to {d};{c} to {d} gradient background;a {c} to {d} gradient;background fading from {c} to {d};"
    "{c} fading into {d};{c}-to-{d} gradient;a {c}-to-{d} gradient background;gradient background, {c} to {d};"
    "{c} at the top turning into {d} at the bottom;a gradient of {c} and {d};from {c} above to {d} below;"
    "a smooth {c} to {d} fade;the background goes from {c} to {d};gradient: {c} to {d};a {c} and {d} gradient;"
    "gradient background from {c} to {d};shading from {c} to {d};{c} blending into {d}"
).split(";")
_TABLES = (STYLE_WORDS, PLACE_WORDS, ALIGN_WORDS, SIZE_WORDS, COLOR_WORDS, SHAPE_WORDS)
MEANINGFUL = set(re.findall("[a-z]+", " ".join(" ".join(table.values()) for table in _TABLES)))
QUOTES = (("'", "'"),) * 4 + (('"', '"'),) * 3 + (("“", "”"),)


def quoted(rng: random.Random, *texts: str) -> list[str]:
    """Put texts into quotes of one kind that none of them holds."""
    opening, closing = ('"', '"') if any("'" in text for text in texts) else rng.choice(QUOTES)
    return [f"{opening}{text}{closing}" for text in texts]


def color_word(rng: random.Random, name: str) -> str:
    """Choose one of the words for a palette colour."""
    return rng.choice(COLOR_WORDS[name].split(";"))


def say_colors(phrase: str, **colors: str) -> str:
    """Put colour words into a phrase, and "an" where one that follows an article begins with a vowel."""
    return re.sub(r"\ba (?=[aeio])", "an ", phrase.format(**colors))


def _third_place(content: Content) -> str:
    """Return the footer's place where it is said; one that is called a footer needs none."""
    return content.third_place if "third place" in content.say else ""


def other_word(rng: random.Random, words: list[str]) -> str:
    """Choose a word that says nothing about the picture."""
    while (word := rng.choice(words).lower()) in MEANINGFUL:
        pass
    return word


def _with_other_words(rng: random.Random, phrase: str, words: list[str]) -> str:
    return say_colors(re.sub("{w}", lambda _: other_word(rng, words), phrase))


def _details(rng: random.Random, words: list[str], number: int) -> list[str]:
    return [
        _with_other_words(rng, rng.choice(OTHER_DETAILS), words) if rng.random() < 0.35 else detail
        for detail in rng.sample(DETAILS, number)
    ]


def _with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _pick(rng: random.Random, words: dict[str, str], name: str) -> str:
    return rng.choice(words[name].split(";"))


def write_prompt(content: Content, seed: int, words: list[str]) -> str:
    """Write a prompt for a content: the texts are quoted, of the rest what `content.say` holds is named.

    words: to talk of what is not in the picture.
    """
    rng = random.Random(seed ^ 0x5EED)
    opening, closing = rng.choice(QUOTES)
    if any("'" in t for t in content.texts):
        opening, closing = '"', '"'
    quote = lambda text: f"{opening}{text}{closing}"  # noqa: E731
    noun = rng.choice(THINGS).replace("_", " ")
    if rng.random() < 0.2:
        noun = f"{other_word(rng, words)} {noun}"
    if rng.random() < 0.35:
        noun = f"{rng.choice(ADJECTIVES)} {noun}"
    says_ink = "ink" in content.say and bool(content.headline) and not content.panel_color
    says_solid = "color" in content.say and not content.bottom_color
    is_pair = says_ink and says_solid and rng.random() < 0.25
    says_type = says_ink and not is_pair and "style" in content.say and rng.random() < 0.3  # ink and style as one
    clauses = _clauses(rng, content, says_ink and not is_pair and not says_type)
    if says_type:
        clauses.append(_type(rng, content))
    if is_pair:
        color, ink = color_word(rng, content.color), color_word(rng, content.ink)
        if "regular" not in content.style and rng.random() < 0.25:
            ink = rng.choice((f"bold {ink}", f"{ink} bold"))
        clauses.append(say_colors(rng.choice(SOLID_AND_INK_WORDS), c=color, i=ink))
    elif says_solid and rng.random() < 0.15:
        noun = f"{color_word(rng, content.color)} {noun}"
    elif "color" in content.say:
        clauses.append(_background(rng, content))
    head = noun if rng.random() < 0.2 else _with_article(noun)
    if rng.random() < 0.3:
        topic = _with_other_words(rng, rng.choice(OTHER_TOPICS), words) if rng.random() < 0.5 else rng.choice(TOPICS)
        head += f" {rng.choice(['for', 'for', 'for', 'about', 'of'])} {topic}"
    if not content.headline:
        parts = [head, *rng.sample(clauses, len(clauses)), *_details(rng, words, rng.randrange(3))]
        return _finish(rng, rng.choice(LEADS) + ", ".join(parts))
    style = f" in {_pick(rng, STYLE_WORDS, content.style)}" if "style" in content.say and not says_type else ""
    if style and rng.random() < 0.3:
        clauses.append(style[4:])
        style = ""
    if content.panel_color:
        style += " " + say_colors(rng.choice(PANEL_WORDS), c=color_word(rng, content.panel_color))
    own_place = ""  # of the headline: said with it where the others have places of their own
    if "place" in content.say:
        where = _pick(rng, PLACE_WORDS, content.place)
        if content.second_place or content.third_place or rng.random() < (0.8 if content.subtitle else 0.4):
            own_place = f" {where}"
        else:
            clauses.append(where)
    clauses = rng.sample(clauses, len(clauses))
    details = _details(rng, words, rng.choice([0, 0, 0, 1, 1, 2, 4]))
    if rng.random() < 0.35:
        texts = _text_sentences(rng, content, quote, bool(own_place), style)
        clauses = _joined(rng, clauses)
        return _finish(rng, rng.choice(LEADS) + head + _in_sentences(rng, texts, clauses + details))
    if rng.random() < 0.12:  # the text comes first
        head = (
            f"{quote(content.headline)}{own_place}{style}, {head}"
            if rng.random() < 0.6
            else (f"{quote(content.headline)}{own_place}{style} on {head}")
        )
        says = ""
    else:
        head = rng.choice(LEADS) + head
        early = rng.random() < 0.25
        if early and clauses:
            head += f", {clauses.pop()},"
        if early and details:
            head += f" {details.pop()},"
        says = f" {rng.choice(SAYS)} {quote(content.headline)}{own_place}{style}".replace(" ,", ",").replace(" :", ":")
    if rng.random() < 0.3 and clauses:  # where or how, right behind the text
        says += " " + clauses.pop()
    others = (
        (content.subtitle, "second place" in content.say and content.second_place, SECOND_SAYS),
        (content.footer, _third_place(content), FOOTER_SAYS if content.third_place else THIRD_SAYS),
    )
    for text, place, phrases in others:
        if text:
            neutral = [w for w in SECOND_SAYS if "below" not in w and "under" not in w]
            lead = rng.choice(neutral if place or not content.headline else phrases)
            where = f" {_pick(rng, PLACE_WORDS, place)}" if place else ""
            words = f"{where} {quote(text)}" if where and rng.random() < 0.3 else f" {quote(text)}{where}"
            says += f"{rng.choice(['', ',', ','])} {lead}{words}"
    separator = rng.choice([", ", ", ", ", ", ". "])
    tail = _joined(rng, clauses) + details
    return _finish(rng, head + says + "".join(separator + c for c in tail))


def _joined(rng: random.Random, clauses: list[str]) -> list[str]:
    """Join some that begin with an article to the clause before: a red background and a star."""
    found: list[str] = []
    for clause in clauses:
        if found and clause.startswith(("a ", "an ", "one ")) and rng.random() < 0.5:
            found[-1] += rng.choice((" and ", " with ", " and ", ", and ")) + clause
        else:
            found.append(clause)
    return found


def _text_sentences(
    rng: random.Random, content: Content, quote: Callable[[str], str], says_place: bool, style: str
) -> list[str]:
    """Return a phrase for each text, with its place where that is said; the headline's is followed by its style."""
    said = (
        (content.headline, content.place if says_place else "", FIRST_SENTENCES, FIRST_SENTENCES_WITH_PLACE),
        (content.subtitle, "second place" in content.say and content.second_place, NEXT_SENTENCES, None),
        (content.footer, _third_place(content), FOOTER_SENTENCES if content.third_place else LAST_SENTENCES, None),
    )
    found = []
    for text, place, phrases, with_place in said:
        if text:
            phrase = rng.choice((with_place or NEXT_SENTENCES_WITH_PLACE) if place else phrases)
            found.append(phrase.format(q=quote(text), p=_pick(rng, PLACE_WORDS, place) if place else ""))
    found[0] += style
    return found


def _in_sentences(rng: random.Random, texts: list[str], others: list[str]) -> str:
    """Join what the texts are and all else, in this order or part of it in another, by full stops or commas."""
    if rng.random() < 0.5:
        blocks = texts
    else:
        last = ", " if texts[-1].startswith("and ") else rng.choice((", ", " and ", "; ", ", and "))
        blocks = [last.join((", ".join(texts[:-1]), texts[-1])) if len(texts) > 1 else texts[0]]
    for group in (others[::2], others[1::2]) if rng.random() < 0.5 else (others,):
        if group:
            block = ", ".join(group)
            blocks = [block, *blocks] if rng.random() < 0.35 else [*blocks, block]
    lead = rng.choice((". ", ". ", ": ", ", "))
    start = blocks[0][0].upper() if lead == ". " else blocks[0][0]
    rest = "".join(f". {block[0].upper()}{block[1:]}" for block in blocks[1:])
    return f"{lead}{start}{blocks[0][1:]}{rest}"


def _finish(rng: random.Random, prompt: str) -> str:
    prompt = prompt.replace(",,", ",").replace("  ", " ").replace(" ,", ",")
    if rng.random() < 0.8:
        prompt = prompt[0].upper() + prompt[1:]
    return prompt + (rng.choice([".", ""]) if rng.random() < 0.5 else "")


def _clauses(rng: random.Random, content: Content, says_ink: bool) -> list[str]:
    clauses = []
    if "align" in content.say:
        clauses.append(_pick(rng, ALIGN_WORDS, content.align))
    if "size" in content.say and content.headline:
        clauses.append(_pick(rng, SIZE_WORDS, content.size))
    if content.shape:
        shape = _pick(rng, SHAPE_WORDS, content.shape)
        clauses.append(say_colors(shape, c=color_word(rng, content.shape_color)))
    if says_ink:
        words = INK_WORDS if "regular" in content.style else INK_WORDS + BOLD_INK_WORDS
        clauses.append(say_colors(rng.choice(words), c=color_word(rng, content.ink)))
    return clauses


def _type(rng: random.Random, content: Content) -> str:
    """Say ink and style at once: white bold sans letters."""
    words = [w for w in STYLE_WORDS[content.style].split(";") if not w.startswith(("a ", "an "))]
    kind = rng.choice(words)
    if not kind.endswith(("letters", "type")):
        kind += rng.choice((" letters", " type", " lettering", " text", " words"))
    return f"{rng.choice(('', '', 'in ', 'set in ', 'with '))}{color_word(rng, content.ink)} {kind}"


def _background(rng: random.Random, content: Content) -> str:
    color = color_word(rng, content.color)
    if content.bottom_color:
        return say_colors(rng.choice(GRADIENT_WORDS), c=color, d=color_word(rng, content.bottom_color))
    return say_colors(rng.choice(SOLID_WORDS), c=color)
