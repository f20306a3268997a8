"""Text on its way to the model: cleaned, checked, cut into parts, timed, turned into tokens."""

import csv
import re
import textwrap
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from voxtral_jax.config import PART_SECONDS, VoxtralConfig
from voxtral_jax.decoder.prompt import prompt_ids
from voxtral_jax.errors import CheckpointError, TextError
from voxtral_jax.text import (
    ByteTokenizer,
    TekkenTokenizer,
    check,
    clean,
    estimate_seconds,
    frame_limits,
    language_of,
    load_tokenizer,
    split_sentences,
    split_text,
)
from voxtral_jax.text.duration import SLACK, SLOWEST
from voxtral_jax.text.sentences import (
    AFTER_CLAUSE,
    AFTER_PARAGRAPH,
    AFTER_SENTENCE,
    WITHIN_CLAUSE,
)

LJSPEECH = Path(__file__).parents[2] / "shared" / "data" / "ljspeech"
SENTENCES = {
    "en": [
        "Dr. Smith paid $3.50 to Ms. Hill at 9.30 a.m. on Monday. ",
        "Then he left, e.g. by train. ",
        "Did Mrs. Jones see it?",
    ],
    "fr": [
        "Hier, M. Dupont a payé 3,50 € à Mme. Lefèvre. ",
        "Il est parti, p. ex. en train. ",
        "Où était le Dr. Noël ?",
    ],
    "de": [
        "Dr. Müller zahlte 3,50 € am 3. Oktober. ",
        "Dann fuhr er z. B. mit dem Zug. ",
        "Hat Frau Groß es gesehen?",
    ],
    "es": ["El Sr. García pagó 3,50 € ayer. ", "¡Qué rápido! ", "¿Lo vio la Sra. Núñez?"],
    "it": [
        "Il sig. Rossi ha pagato 3,50 € a pag. 12. ",
        "Poi è partito. ",
        "L'ha visto la dott.ssa Bianchi?",
    ],
    "pt": [
        "O Sr. Silva pagou 3,50 € na estação. ",
        "Não é longe, pág. 7. ",
        "A Srta. Conceição não o viu?",
    ],
    "zh": ["他在车站付了3.50元。", "然后坐火车走了！", "她看见了吗？"],
    "ja": ["彼は駅で3.50ドルを払った。", "それからパリへ帰った！", "彼女は見たか？"],
    "ko": [
        "그는 역에서 3.50달러를 냈다. ",
        "그리고 기차로 떠났다! ",
        "그녀는 보았는가?",
    ],
    "nl": [
        "Dhr. Jansen betaalde 3,50 € aan mevr. de Vries. ",
        "Daarna vertrok hij, bijv. met de trein. ",
        "Heeft zij één reünie gezien?",
    ],
    "ar": ["دفع أحمد 3.50 دولار في المحطة. ", "ثم غادر بالقطار! ", "هل رأته ليلى؟"],
    "hi": ["राम ने स्टेशन पर 3.50 रुपये दिए। ", "फिर वह ट्रेन से चला गया। ", "क्या सीता ने उसे देखा?"],
}
"""Three sentences each, of all languages, with abbreviations and decimals."""
MARKDOWN = st.text(alphabet="*_`#[]()!-+>&; \n\tab1.漢é", max_size=40)
TEXTS = st.one_of(st.text(max_size=80), MARKDOWN)
LONG_TEXTS = st.lists(
    st.sampled_from(
        [
            *("word", "Sentence.", "clause,", "漢字", "第二、", "かな。", "x" * 90, "1,234.5"),
            *("मैं।", "هل؟", "…", "e\u0301", "M.", "'", "\n", " ", "—"),
        ]
    ),
    max_size=60,
).flatmap(lambda pieces: st.sampled_from(["", " "]).map(lambda space: space.join(pieces)))


def without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)


# Tokens


@pytest.mark.parametrize("prompt", ["voice", "clone"])
def test_prompts_have_the_reference_token_ids(reference: Path, prompt: str) -> None:
    config = VoxtralConfig.load(reference)
    expected = load_file(reference / "expected.safetensors")[f"prompt.{prompt}_tokens"].tolist()
    text = (reference / "text.txt").read_text(encoding="utf-8")
    voice_length = expected.count(config.audio.audio_token_id)
    tokenizer = load_tokenizer(reference, "tekken")
    assert prompt_ids(config, tokenizer, text, voice_length) == expected


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1, 2", b"\xff\xfe\x00", b'"tekken"'])
def test_a_missing_or_corrupt_tokenizer_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_tokenizer(tmp_path, "tekken")


def test_a_truncated_tokenizer_is_named(reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    path.write_bytes((reference / "tekken.json").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        TekkenTokenizer(path)


@given(st.text())
def test_bytes_come_back_from_their_ids(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert bytes(i - tokenizer.reserved for i in ids).decode("utf-8") == text
    assert not {tokenizer.begin_text, tokenizer.end_text} & set(ids)
    assert all(tokenizer.reserved <= i < tokenizer.vocab_size for i in ids)


# Clean-up


@settings(deadline=None)
@given(TEXTS)
@example("**-** a")
@example("- - *a*")
@example("[[a](b)](c)")
@example("&amp;amp;lt;")
@example("# - > `# x`")
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("# Title\n\nSome **bold**, *slanted* and `code`.", "Title\nSome bold, slanted and code."),
        ("***all*** of __it__ and _this_, **Note:**then", "all of it and this, Note:then"),
        ("- one\n* two\n+ three\n  - four\n> five", "one\ntwo\nthree\nfour\nfive"),
        ("Above\n\n---\n\n* * *\nbelow", "Above\nbelow"),
        ("See [the page](https://a.b/c_(d)) and ![an image](x.png).", "See the page and an image."),
        ("Before ```\nx = 1\n``` after", "Before after"),
        ("Wait\U0001f600\U0001f44d\U0001f3fd what ❤\ufe0f 1\ufe0f\u20e3", "Wait what 1"),
        ("a\x00b\x07c\x1b[31md", "abcd"),
        ("zero\u200bwidth\ufeff, soft\u00adhyphen\u2060", "zerowidth, softhyphen"),
        ("odd\u00a0 \u2003\tspaces  ", "odd spaces"),
        ("cafÃ© &amp; naÃ¯ve", "café & naïve"),
        ("cafe\u0301", "caf\u00e9"),
        ("ＡＢＣ１２ ｶﾞ", "ABC12 ガ"),
        ("这是**重点**内容", "这是重点内容"),
        ("~~gone~~ **https://a.b/_c_** and", "gone https://a.b/_c and"),
        ("\U0001f468\u200d\U0001f469 a\u200db \u200cनम", "ab नम"),
    ],
)
def test_what_is_not_spoken_is_taken_away(text: str, spoken: str) -> None:
    assert clean(text) == spoken


@pytest.mark.parametrize(
    "text",
    [
        *("".join(sentences) for sentences in SENTENCES.values()),
        "2*3*4 and 2 * 3, 2**3, f(x)*2, 2*(3+4), snake_case_name, a - b, 5 < 6, -5 °C, ± 2 ℃",
        "At 9:30, 1,234.56 × 10% = 50 €, £3, #1, № 5, § 7, C# & C++, 1/2, m², user@mail.org",
        "Mr. Smith (b. 1950) etc., e.g. No. 5 … “Well” – he said: ‘no’ — it’s «fine»!",
        "Straße Ærø Łódź São Paulo İstanbul Šibenik",
        "A paragraph.\nAnother one.",
        "他说，“你好”！真的？（是的）",
        "See https://a.b/_c_/d*e*f?g=__h__i for 2^3 and x ~ 5",
        "क्\u200dष می\u200cخواهم",
    ],
)
def test_what_is_spoken_stays(text: str) -> None:
    assert clean(text) == text


def test_paragraphs_stay_apart() -> None:
    assert clean("One.\r\n\r\n \nTwo.\u2029Three.\n") == "One.\nTwo.\nThree."


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_no_letter_of_the_languages_is_lost(form: str) -> None:
    letters = [chr(c) for c in (*range(0x30, 0x180), *range(0x620, 0x660), *range(0x900, 0x970))]
    letters += [chr(c) for c in (*range(0x3041, 0x30FF), 0x4E00, 0x9FA5, *range(0xAC00, 0xACFF))]
    letters = [c for c in letters if c.isalnum() and c not in "ŉĲĳ"]  # in use as two letters
    words = [unicodedata.normalize("NFC", f"a{c}o") for c in letters]
    lost = [word for word in words if clean(unicodedata.normalize(form, word)) != word]
    assert lost == []


# Checks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to speak: the text is empty"),
        (" \n\t ", "nothing to speak: the text is empty"),
        ("... !? —", r"nothing to speak: the text is '\.\.\. "),
        (None, "must be a string, got NoneType"),
        (b"text", "must be a string, got bytes"),
        (["text"], "must be a string, got list"),
        ("a" * 100_001, "has 100,001 characters, at most 100,000"),
        ("a \ud800 b", "no valid Unicode"),
    ],
)
def test_what_cannot_be_spoken_is_refused(text: object, message: str) -> None:
    with pytest.raises(TextError, match=message):
        check(text)


@pytest.mark.parametrize("text", ["a", "7", "你", "¿Sí?", "a" * 100_000])
def test_the_least_and_the_most_text_pass(text: str) -> None:
    check(text)


# Languages and sentences


@pytest.mark.parametrize("language", SENTENCES)
def test_the_language_is_found(language: str) -> None:
    assert language_of("".join(SENTENCES[language])) == language


def test_a_foreign_word_does_not_make_the_language() -> None:
    assert language_of("The Arabic word حب means love, and 漢字 are characters.") == "en"
    assert language_of("我喜欢用iPhone手机") == "zh"
    assert language_of("私はVoxtralを使う") == "ja"


@pytest.mark.parametrize("text", ["", "Hello", "Hi.", "OK", "12"])
def test_a_text_too_short_to_tell_is_english(text: str) -> None:
    assert language_of(text) == "en"


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_end_where_they_end(language: str) -> None:
    assert split_sentences("".join(SENTENCES[language])) == SENTENCES[language]


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.text(), LONG_TEXTS), st.sampled_from(sorted(SENTENCES)))
def test_sentences_together_are_the_text(text: str, language: str) -> None:
    assert "".join(split_sentences(text, language)) == text


def test_sentences_of_long_paragraphs_are_the_same() -> None:
    sentences = [f"Mr. {n} paid {n}.50 to Dr. Who, e.g. on Sunday. " for n in range(1000)]
    assert split_sentences("".join(sentences), "en") == sentences


# Parts


@settings(deadline=None)
@given(LONG_TEXTS, st.sampled_from([1.0, 3.0, PART_SECONDS]))
@example("wordSentence.", 1.0)
def test_no_part_is_too_long_and_only_space_is_lost(text: str, longest: float) -> None:
    parts = split_text(text, longest)
    spoken = [line for line in text.splitlines() if any(map(str.isalnum, line))] or [text]
    is_split = estimate_seconds(text.strip()) > longest
    whole = [without_space(line) for line in spoken] if is_split else [without_space(text)]
    assert without_space("".join(part.text for part in parts)) == "".join(whole)
    # Signs around the words stay with them, even where their pause exceeds the limit.
    words = [re.sub(r"^[\W_]+|[\W_]+$", "", part.text) for part in parts]
    assert all(estimate_seconds(word) <= longest + 1e-6 for word in words)
    assert len(parts) == 1 or all(any(map(str.isalnum, word)) for word in words)
    assert all(part.text == part.text.strip() for part in parts)
    assert len(parts) == 1 or all(part.text for part in parts)


def test_lines_wrapped_at_a_width_are_no_paragraphs() -> None:
    sentence = "This is a sentence of a text that somebody has wrapped at seventy columns. "
    wrapped = textwrap.fill(sentence * 12, 70)
    assert wrapped.count("\n") > 10
    flowing = split_text(sentence * 12)
    assert split_text(wrapped) == flowing
    assert {part.pause_after for part in flowing[:-1]} == {0.35}
    assert len(split_text(f"A short heading\n{wrapped}")) == len(flowing) + 1


def test_a_short_text_is_one_part() -> None:
    text = "A short text.\nOf two paragraphs."
    assert [part.text for part in split_text(f" {text} ")] == [text]


@pytest.mark.parametrize("character", ["x", "漢", "ア", "한", "म"])
def test_a_run_without_space_is_cut(character: str) -> None:
    parts = split_text(character * 3000)
    assert len(parts) > 5
    assert "".join(part.text for part in parts) == character * 3000
    assert all(estimate_seconds(part.text) <= PART_SECONDS for part in parts)
    assert {part.pause_after for part in parts[:-1]} == {WITHIN_CLAUSE}


def test_pauses_fit_the_cuts() -> None:
    sentence = "This is a sentence that takes about three seconds. "
    paragraph = sentence * 10
    parts = split_text(f"{paragraph}\n\n{paragraph}")
    ends = [part.pause_after for part in parts]
    assert ends == [AFTER_SENTENCE, AFTER_PARAGRAPH] * 2
    clauses = split_text("a clause of some length that ends in a comma, " * 12)
    assert {part.pause_after for part in clauses[:-1]} == {AFTER_CLAUSE}
    words = split_text("word " * 200)
    assert {part.pause_after for part in words[:-1]} == {WITHIN_CLAUSE}
    assert all(re.fullmatch(r"word( word)*", part.text) for part in words)
    assert AFTER_PARAGRAPH > AFTER_SENTENCE > AFTER_CLAUSE > WITHIN_CLAUSE


def test_parts_are_of_about_equal_length() -> None:
    sentence = "This is a sentence that takes about three seconds. "
    for count in range(7, 40):
        lengths = [estimate_seconds(part.text) for part in split_text(sentence * count)]
        assert min(lengths) > 0.4 * max(lengths)


def test_parts_are_cut_as_the_language_that_is_named_writes() -> None:
    text = "Wir kommen am 3. Mai. " * 8
    german = [part.text for part in split_text(text, 5.0, "de")]
    assert len(german) > 1
    assert all(part.endswith("Mai.") for part in german)
    assert any(part.text.endswith("3.") for part in split_text(text, 5.0, "en"))


def test_numbers_are_not_cut() -> None:
    parts = split_text("between 1,234,567.89 and 12:34:56 o'clock " * 40)
    numbers = re.findall(r"\S*\d\S*", " ".join(part.text for part in parts))
    assert set(numbers) == {"1,234,567.89", "12:34:56"}


def test_lines_without_a_word_are_not_spoken() -> None:
    paragraph = "This is a sentence that takes about three seconds. " * 6
    assert {part.text[0] for part in split_text(f"{paragraph}\n***\n…\n{paragraph}")} == {"T"}


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"Chapter {n} about things {'.' * 60} {n * 7}" for n in range(1, 20)),
        f"He waited{'.' * 200} and left. " * 8,
        f"Wait {'! ' * 100} now. " * 20,
        f"{'… ' * 90}{'漢' * 300}{'.' * 300}",
        f"{'word ' * 100}{'? . ' * 90}",
    ],
)
def test_every_part_has_something_to_say(text: str) -> None:
    parts = split_text(text)
    assert all(any(map(str.isalnum, part.text)) for part in parts)
    assert without_space("".join(part.text for part in parts)) == without_space(text)


@pytest.mark.parametrize("work", [clean, split_text])
@pytest.mark.parametrize(
    "text",
    [
        *("*" * 50_000, "[" * 50_000, "[](" * 30_000, "![" * 50_000, "a" * 100_000, "漢" * 100_000),
        *("This is a sentence. " * 5000, "word " * 20_000, "_a" * 50_000, "*a* " * 25_000),
        *("\n" * 99_999 + "a", " " * 99_999 + "a", "." * 99_999 + "a", "M. " * 33_000),
        *("- " * 50_000, "# " * 50_000, "-\n" * 50_000, "&" + "amp;" * 20_000, "#38;" * 20_000),
        *("[" * 30_000 + "](a)" * 14_000, "```" * 30_000, "a," * 50_000, "**__" * 20_000),
        *("\U0001f44d" * 99_999 + "a", "\u200b" * 99_999 + "a", "a" + "\u0301" * 99_999),
    ],
    ids=lambda text: f"{text[:8]!a}" if isinstance(text, str) else None,
)
def test_the_longest_texts_are_handled(work: Callable[[str], object], text: str) -> None:
    # Work that grows with the square of the length would hang here.
    assert work(text) is not None


# Durations


@given(st.text(), st.text())
def test_more_text_takes_more_time(first: str, second: str) -> None:
    together = estimate_seconds(first + second)
    assert together >= max(estimate_seconds(first), estimate_seconds(second))
    assert together <= estimate_seconds(first) + estimate_seconds(second) + 1e-9


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [("5", "5 %"), ("5", "5 €"), ("5", "$5"), ("1 1", "1 + 1"), ("AT", "A&T"), ("का", "की ओर")],
)
def test_signs_that_are_read_as_words_take_time(shorter: str, longer: str) -> None:
    assert estimate_seconds(longer) > estimate_seconds(shorter)


@given(st.text(max_size=200), st.sampled_from([12.5, 25.0]))
@example("1" + "0" * 60, 12.5)
def test_limits_leave_room(text: str, frame_rate: float) -> None:
    limits = frame_limits(text, frame_rate)
    usual = estimate_seconds(text) * frame_rate
    assert 1 <= limits.minimum <= max(usual, 2) <= limits.maximum
    assert limits.maximum <= (SLOWEST * usual / frame_rate + SLACK) * frame_rate + 1


@pytest.mark.parametrize("text", ["1,000,000", "1000000000", "10:00", "¡1.000.000!"])
def test_round_numbers_may_be_short(text: str) -> None:
    assert frame_limits(text, 12.5).minimum <= 0.4 * 12.5


@pytest.mark.skipif(not LJSPEECH.is_dir(), reason="needs ../shared/data/ljspeech")
def test_limits_hold_for_real_speech() -> None:
    with (LJSPEECH / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE))
    ratios = []
    for name, _, text in rows:
        if (LJSPEECH / f"{name}.wav").is_file():
            seconds = soundfile.info(LJSPEECH / f"{name}.wav").duration
            limits = frame_limits(text, 12.5)
            assert limits.minimum < seconds * 12.5 < limits.maximum, name
            ratios.append(estimate_seconds(text) / seconds)
    assert len(ratios) > 5
    assert 0.8 < sum(ratios) / len(ratios) < 1.25
