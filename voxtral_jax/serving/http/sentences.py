"""Text that comes in pieces, cut into sentences as they end."""

from __future__ import annotations

from dataclasses import dataclass

from voxtral_jax.text import language_of, split_sentences

HEARD = 1000
"""Characters, the last ones, that the language is found out from."""


@dataclass(frozen=True)
class Sentence:
    """What is spoken next, and the language that it is in."""

    text: str
    language: str


class Sentences:
    """Cuts text that comes in pieces into sentences.

    Attributes:
        language: of the text; None finds out.
        rest: what may still go on.
    """

    def __init__(self) -> None:
        self.language: str | None = None
        self.rest = ""
        self._heard = ""

    def push(self, text: str) -> list[Sentence]:
        """The sentences that are complete now: those that another one follows."""
        self.rest += text
        self._heard = (self._heard + text)[-HEARD:]
        language = self._language()
        pieces = split_sentences(self.rest, language)
        complete, begun = [], ""
        for piece in pieces[:-1]:
            begun += piece
            # Signs without a word belong to what follows.
            if any(map(str.isalnum, begun)):
                complete.append(Sentence(begun.strip(), language))
                begun = ""
        self.rest = begun + "".join(pieces[-1:])
        return complete

    def flush(self) -> list[Sentence]:
        """The rest, if there is anything to say in it."""
        rest, self.rest = self.rest.strip(), ""
        return [Sentence(rest, self._language())] if any(map(str.isalnum, rest)) else []

    def forget(self) -> None:
        """Nothing was said."""
        self.rest = self._heard = ""

    def _language(self) -> str:
        # Of what was heard lately: a short sentence alone tells too little.
        return self.language or language_of(self._heard)
