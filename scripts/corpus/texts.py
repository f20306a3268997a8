"""Sentences in nine languages, split into train, validation and test.

    python scripts/corpus/texts.py corpus/texts.jsonl --rohan rohan4600_ja.txt

From Debian's packages `debian-handbook`, `fortunes`, `fortunes-{de,es,it,br,zh}` and
`libreoffice-help-{fr,ko}`, and the ROHAN corpus of Japanese sentences. A sentence's split follows
from its own letters, so that more texts never move one from training to test.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from voxtral_jax.files import replacing
from voxtral_jax.text.cleanup import clean
from voxtral_jax.text.duration import estimate_seconds
from voxtral_jax.text.sentences import language_of, split_sentences

HANDBOOK = {
    "en": "en-US",
    "fr": "fr-FR",
    "de": "de-DE",
    "es": "es-ES",
    "it": "it-IT",
    "pt": "pt-BR",
    "zh": "zh-CN",
    "ja": "ja-JP",
    "ko": "ko-KR",
}
"""Language to the folder of its translation."""
FORTUNES = {
    "en": "[a-z]*",
    "de": "de/*",
    "es": "es/*",
    "it": "it/*",
    "pt": "brasil",
    "zh": "chinese",
}
"""Language to the fortune files that are in it; of the plain folder, other languages' lines go."""
TAGS = re.compile(r"<[^>]+>")
PARAGRAPH = re.compile(r'<(?:p|div class="para")(?: [^>]*)?>(.*?)</(?:p|div)>', re.DOTALL)
CODE = re.compile(r"<code.*?</code>|<pre.*?</pre>", re.DOTALL)
READING = re.compile(r"\([^)]*\)")
SHORTEST, LONGEST = 1.5, 9.0
"""Seconds of a sentence, as estimated."""
PLAIN = set(" ,.;:!?'\"-()«»“”‘’„¿¡…、。，！？；：「」")
"""Marks that a sentence may hold beside letters; anything else is not prose."""
TESTS, VALIDATIONS = 4, 2
"""Percent of the sentences kept apart."""


def paragraphs_of_handbook(root: Path, language: str) -> Iterator[str]:
    """Paragraphs of the Debian handbook."""
    for page in sorted((root / HANDBOOK[language]).glob("*.html")):
        for found in PARAGRAPH.findall(page.read_text(encoding="utf-8", errors="replace")):
            if not CODE.search(found):
                yield html.unescape(TAGS.sub("", found))


def paragraphs_of_fortunes(root: Path, language: str) -> Iterator[str]:
    """Sayings."""
    for file in sorted(root.glob(FORTUNES.get(language, "none"))):
        if file.is_file() and file.suffix not in (".dat", ".u8"):
            for saying in file.read_text(encoding="utf-8", errors="replace").split("\n%"):
                yield saying.split("\n\t\t--")[0].split("\n   --")[0]


def paragraphs_of_help(root: Path, language: str) -> Iterator[str]:
    """Paragraphs of LibreOffice's help; of the installed languages, those with few other texts."""
    for page in sorted((root / language).rglob("*.html")):
        for found in PARAGRAPH.findall(page.read_text(encoding="utf-8", errors="replace")):
            yield html.unescape(TAGS.sub("", found))


def sentences_of_rohan(file: Path) -> Iterator[str]:
    """Japanese sentences without their readings."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield READING.sub("", line.split(":", 1)[1].split(",")[0])


def is_prose(sentence: str, language: str) -> bool:
    """Whether it can be read aloud as it stands, takes a fitting time and is in the language."""
    marks = [c for c in sentence if unicodedata.category(c)[0] not in "LM"]
    letters = len(sentence) - len(marks)
    return (
        all(c in PLAIN for c in marks)
        and letters >= (2 if language in ("zh", "ja", "ko") else 3) * max(1, len(marks)) / 2
        and not any(word.isupper() and len(word) > 1 for word in sentence.split())
        and SHORTEST <= estimate_seconds(sentence) <= LONGEST
        and language_of(sentence) == language
    )


def split_of(sentence: str) -> str:
    """Train, validation or test, by the letters alone."""
    letters = "".join(c for c in sentence.casefold() if c.isalpha())
    percent = int.from_bytes(hashlib.blake2s(letters.encode(), digest_size=4).digest()) % 100
    return "test" if percent < TESTS else "validation" if percent < TESTS + VALIDATIONS else "train"


def main(
    out: Annotated[Path, typer.Argument(help="file to write: JSON lines")],
    rohan: Annotated[Path, typer.Option(help="ROHAN's transcripts")],
    handbook: Annotated[Path, typer.Option()] = Path("/usr/share/doc/debian-handbook/html"),
    fortunes: Annotated[Path, typer.Option()] = Path("/usr/share/games/fortunes"),
    office: Annotated[Path, typer.Option()] = Path("/usr/share/libreoffice/help"),
) -> None:
    """Writes all sentences found."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for language in HANDBOOK:
            sources = [*paragraphs_of_fortunes(fortunes, language)]
            sources += paragraphs_of_handbook(handbook, language)
            sources += paragraphs_of_help(office, language)
            if language == "ja":
                sources += sentences_of_rohan(rohan)
            seen: set[str] = set()
            for paragraph in sources:
                text = clean(" ".join(paragraph.split()))
                for sentence in split_sentences(text, language) if text else []:
                    sentence = sentence.strip(" -\"'“”«»„")
                    if sentence not in seen and is_prose(sentence, language):
                        seen.add(sentence)
                        line = {"language": language, "text": sentence, "split": split_of(sentence)}
                        lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(language, len(seen), "sentences")


if __name__ == "__main__":
    typer.run(main)
