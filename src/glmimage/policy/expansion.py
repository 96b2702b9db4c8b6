"""Let a language model enrich a prompt, through any OpenAI-compatible chat endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..quotes import get_glyph_texts
from ..types import MAX_PROMPT_CHARACTERS
from .endpoint import Endpoint
from .errors import NotConfigured, ServiceUnavailable

INSTRUCTIONS = """\
You rewrite prompts for a text-to-image model. Describe subject, setting, composition, light,
colours, materials and style concretely, in the language of the prompt, in at most 120 words.
Keep everything the prompt asks for. Text inside quotation marks will be written in the picture:
repeat every quoted text exactly, character by character, in the same quotation marks and order,
and put nothing else in quotation marks. Do not use apostrophes. Answer with the new prompt only."""

# two of them in a text look like a quotation to the model, however often one asks for none
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
# what the model does not take for words to write is quoted text to whoever wrote the prompt
_MORE_QUOTES = re.compile(
    r"«[^«»]*»|‹[^‹›]*›|„[^„“”]*[“”]|‘[^‘’]*’(?!\w)|『[^『』]*』|《[^《》]*》|“[^“”]*”"
)
_FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True)
class Expansion:
    """Hold the prompt to paint. note: why it is the original one, for the job's log."""

    prompt: str
    expanded: bool
    note: str = ""


class PromptExpander:
    """Ask a chat endpoint for a richer prompt; None as endpoint means that none is configured.

    on_failure: `original` paints the prompt as it came and says so, `error` raises.
    """

    def __init__(self, endpoint: Endpoint | None, *, on_failure: str = "original") -> None:
        self._endpoint = endpoint
        self._on_failure = on_failure

    async def expand_prompt(self, prompt: str) -> Expansion:
        """Return the richer prompt; where failures are to be errors raise ServiceUnavailable, and
        NotConfigured without an endpoint.

        An answer that changes a quoted text is never used: the text is what the picture is for.
        """
        if self._endpoint is None:
            reason = "prompt expansion is not configured on this server"
            if self._on_failure == "error":
                raise NotConfigured(
                    f"The prompt was not expanded: {reason}.",
                    hint="Send the request without enable_prompt_expansion.",
                )
            return Expansion(prompt, False, f"The original prompt is used: {reason}.")
        try:
            question = self._question(self._endpoint, prompt)
            text = _read_answer(await self._endpoint.post("chat/completions", question))
        except ServiceUnavailable as error:
            return self._failed(prompt, f"prompt expansion failed: {error.message}")
        for candidate in _mended(text):
            if not why_not_usable(prompt, candidate):
                return Expansion(candidate, True)
        reason = why_not_usable(prompt, text)
        return Expansion(prompt, False, f"The original prompt is used: {reason}.")

    async def close(self) -> None:
        """Release the connection."""
        if self._endpoint is not None:
            await self._endpoint.close()

    def _question(self, endpoint: Endpoint, prompt: str) -> dict[str, Any]:
        # nothing else: some services refuse a temperature, others the name of a length limit
        return {
            "model": endpoint.model,
            "messages": [
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": prompt},
            ],
        }

    def _failed(self, prompt: str, reason: str) -> Expansion:
        if self._on_failure == "error":
            raise ServiceUnavailable(
                f"The prompt was not expanded: {reason}.",
                hint="Send the request without enable_prompt_expansion, or try again later.",
            )
        return Expansion(prompt, False, f"The original prompt is used: {reason}.")


def why_not_usable(prompt: str, answer: str) -> str:
    """Return why the answer may not replace the prompt, or an empty string."""
    if not answer:
        return "the expansion came back empty"
    if len(answer) > MAX_PROMPT_CHARACTERS:
        return f"the expansion has {len(answer)} characters, more than {MAX_PROMPT_CHARACTERS}"
    if get_glyph_texts(answer) != get_glyph_texts(prompt):
        return "the expansion changed the quoted text"
    if any(quoted not in answer for quoted in _MORE_QUOTES.findall(prompt)):
        return "the expansion changed the quoted text"
    return ""


def _mended(answer: str) -> Iterator[str]:
    """Yield the answer, without the fence that some models put around it, and with apostrophes
    that are no quotes."""
    fenced = _FENCE.fullmatch(answer)
    bare = fenced[1].strip() if fenced else answer
    yield bare
    yield _APOSTROPHE.sub("’", bare)


def _read_answer(answer: Any) -> str:
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ServiceUnavailable("The chat endpoint's answer has no text.")
    # reasoning models think aloud first
    return text.rpartition("</think>")[2].strip().replace("\0", "")
