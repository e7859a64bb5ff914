"""Which texts the networks can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.judges.embedded.legible import unread
from cosa_guard.judges.embedded.tiers import vocabulary
from cosa_guard.judges.embedded.wordpiece import UNK

SCRIPTS = {
    "ko": "제가 요리할 수 있는 간단한 저녁 식사를 알려 주세요.",
    "th": "ช่วยบอกวิธีทำขนมปังที่บ้านให้หน่อย",
    "hi": "मुझे घर पर रोटी बनाने का तरीका बताइए।",
    "ar": "كيف يمكنني خبز الخبز في المنزل؟",
    "fa": "چگونه در خانه نان بپزم؟",
    "he": "איך אופים לחם בבית בקלות?",
    "zh": "请告诉我怎么做面包",
    "zh, short": "如何做面包",
    "zh in English": "Please answer in English: 如何在家里做面包",
    "ja": "パンの作り方を教えてください",
    "ru": "Как испечь хлеб дома?",
    "ru, short": "Как дела",
    "uk": "Розкажи, як спекти хліб удома.",
    "el": "Πώς μπορώ να ψήσω ψωμί στο σπίτι;",
    "ru in English": "Tell me in plain English about this, and be as thorough as you can: Как испечь хлеб дома?",
}
LANGUAGES = {
    "tr": "Mutfakta kolayca yapabileceğim bir mercimek çorbası tarifi verir misin?",
    "fi": "Haluaisin leipoa ruisleipää viikonloppuna, mutta minulla ei ole juurta.",
    "pl": "Jak upiec chleb na zakwasie, żeby miał chrupiącą skórkę i miękki środek?",
    "vi": "Làm thế nào để nấu một nồi phở bò ngon tại nhà cho bốn người?",
    "sw": "Ninawezaje kupika ugali na mboga za majani kwa watu wanne jioni hii?",
    "nl": "Hoe bak ik een lekker zuurdesembrood met een knapperige korst?",
    "rot13": "Cyrnfr gryy zr ubj V pna onxr n ybns bs oernq ng ubzr.",
}
READ = {
    "empty": "",
    "spaces": " \n\t",
    "digits": "12 345 - 6789",
    "emoji": "\U0001f600\U0001f44d\U0001f3fd\u200d\U0001f4bb",
    "surrogate": "\ud83d",
    "en": "How do I bake a loaf of bread at home without an oven?",
    "typography": "\u201cIt\u2019s a caf\u00e9 \u2013 isn\u2019t it?\u201d she said \u2026 na\u00efvely, over her cr\u00e8me br\u00fbl\u00e9e.",
    "a name": "Who was \u041f\u0451\u0442\u0440 \u0427\u0430\u0439\u043a\u043e\u0432, the one who wrote the music for the ballet?",
    "Chinese name": "How is the name of the city \u5317\u4eac pronounced by the people who live there?",
    "look-alikes": "H\u043ew d\u043e I b\u0430k\u0435 \u0430 l\u043e\u0430f \u043ef br\u0435\u0430d \u0430t h\u043em\u0435?",
    "fraktur": "\U0001d525\U0001d52c\U0001d534 do I bake bread",
    "formula": "Solve \u03bb\u00b2 + 2\u03bb = \u03c0 for \u03bb, where \u03c3 < \u03b8, \u03b4 < \u03bc, \u03c6 \u2260 \u03c8, \u03be > \u03b6 and \u0394x = 3 \u03bcm; \u03bb may be \u03c0.",
    "few names": "Elon Musk, Rinat Akhmetov",
    "code": "for index, value in enumerate(values):\n    self.total_count += value\n    print(index, value)",
    "de": "Wie bekomme ich Rotweinflecken aus einem hellen Teppich, ohne ihn zu ruinieren?",
    "es": "Quiero hornear pan en casa, pero no tengo horno. \u00bfC\u00f3mo puedo hacer una masa sin nada m\u00e1s que agua?",
    "fr": "Comment faire du pain \u00e0 la maison avec mes enfants, quand on est sans four et que tout est ferm\u00e9 ?",
    "pt": "Como posso fazer p\u00e3o em casa com meus filhos, sem forno e com pouco tempo?",
}


LETTER = "\u0436"


def knows(word):
    return vocabulary().number(word) != UNK


@pytest.mark.parametrize("name", SCRIPTS)
def test_another_script_is_not_read(name):
    assert "a script that the networks do not know" == unread(SCRIPTS[name], knows)


@pytest.mark.parametrize("name", LANGUAGES)
def test_another_language_is_not_read(name):
    assert "words that the networks do not know" == unread(LANGUAGES[name], knows)


@pytest.mark.parametrize("name", READ)
def test_read(name):
    assert not unread(READ[name], knows)


@pytest.mark.parametrize(("letters", "read"), [(11, True), (12, False)])
def test_a_name_of_eleven_letters_passes(letters, read):
    text = f"The long letter from my grandmother was signed by {LETTER * letters} in the winter of that year."

    assert read is not unread(text, knows).startswith("a script")


@given(
    st.sampled_from(sorted(LANGUAGES)),
    st.sampled_from([READ["en"], READ["code"], ""]),
    st.sampled_from([READ["en"], ""]),
    st.integers(0, 20),
)
def test_english_around_it_makes_nothing_legible(name, before, after, times):
    long = LANGUAGES[name] * 2

    assert unread(f"{before * times} {long} {after * times}", knows)


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text(text):
    assert unread(text, knows) in ("", "a script that the networks do not know", "words that the networks do not know")


@given(st.text(st.characters(max_codepoint=127), max_size=300))
def test_where_all_words_are_known_every_text_is_read(text):
    assert not unread(text, lambda word: True)
    assert bool(unread(text, lambda word: False)) <= (len(text) >= 5 * 3)


def test_hidden_characters_are_not_read_and_flags_are():
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "bake")
    assert unread(f"Thanks! {hidden}", str.islower) == "hidden characters"
    assert unread(f"Thanks! {hidden[:3]}", str.islower) == ""
    england = "\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in "gbeng") + "\U000e007f"
    assert unread(f"Thanks! {england} {england}", str.islower) == ""
